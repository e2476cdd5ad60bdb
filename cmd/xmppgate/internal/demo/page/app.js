// The page around the client: what is shown, and when.

import { Client, bare, masked } from './xmpp.js';
import { closeWords } from './words.js';

const $ = (id) => document.getElementById(id);
const labels = { offline: 'Offline', connecting: 'Connecting…', online: 'Online', reconnecting: 'Reconnecting…' };
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const precise = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3, hour12: false });
const framesKept = 400;
const title = document.title;

let client = null;
let contact = '';
let unread = 0;
const waiting = new Map(); // message id → its tick

// The links that the demo prints fill in the form: ?jid=…&to=…&password=…
// Behind # instead of ? a password stays in the browser.
const link = new URLSearchParams(`${location.search.slice(1)}&${location.hash.slice(1)}`);
for (const [parameter, field] of [['jid', 'jid'], ['to', 'contact'], ['password', 'password']]) {
  if (link.get(parameter)) $(field).value = link.get(parameter);
}

function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

// follow keeps the end of a list in sight: when something is added, when the
// list shrinks because a keyboard comes up, and when it is shown again. Not when
// the reader has scrolled back.
function follow(list) {
  let atEnd = true;
  const toEnd = () => { list.scrollTop = list.scrollHeight; };
  // A list that is not shown has no height, and nobody has scrolled it.
  list.addEventListener('scroll', () => { if (list.clientHeight) atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40; });
  new ResizeObserver(() => atEnd && toEnd()).observe(list);
  return {
    append(item) {
      list.append(item);
      if (atEnd) toEnd();
    },
    toEnd() {
      atEnd = true;
      toEnd();
    },
  };
}
const log = follow($('log'));
const wire = follow($('wire'));

const notice = (text) => log.append(element('li', { className: 'notice', textContent: text }));

function bubble({ className, body, time, from, tick }) {
  const stamp = element('time', { dateTime: time.toISOString(), title: time.toLocaleString(), textContent: clock.format(time) });
  const item = element('li', { className });
  if (from) item.append(element('b', { textContent: from }));
  item.append(element('p', { textContent: body }), element('footer', {}, stamp, ...(tick ? [tick] : [])));
  log.append(item);
}

// frameRow is one WebSocket message, or the end of the connection.
function frameRow({ className, mark, label, name, note, code }) {
  return element('li', { className },
    element('header', {},
      element('span', { className: 'mark', textContent: mark, ariaLabel: label, role: 'img' }),
      element('b', { textContent: name }),
      element('span', { textContent: note }),
      element('time', { textContent: precise.format(new Date()) })),
    ...(code ? [element('code', { textContent: code })] : []));
}

function addFrame(row) {
  wire.append(row);
  if ($('wire').childElementCount > framesKept) $('wire').firstElementChild.remove();
}

// foldAcknowledgement hides <r/> and <a/> behind one line: there are more of
// them than of anything else.
function foldAcknowledgement(row) {
  let fold = $('wire').lastElementChild;
  if (!fold?.classList.contains('fold')) {
    fold = element('li', { className: 'fold' }, element('details', {}, element('summary'), element('ol')));
    addFrame(fold);
  }
  const rows = fold.querySelector('ol');
  rows.append(row);
  if (rows.childElementCount > framesKept) rows.firstElementChild.remove();
  fold.querySelector('summary').textContent = `Acknowledgements: ${rows.childElementCount}`;
}

function showTitle() {
  document.title = (unread ? `(${unread}) ` : '') + (client ? `${contact} · ${title}` : title);
}

const on = {
  state(name, detail) {
    const before = document.body.dataset.state;
    document.body.dataset.state = name;
    const session = name === 'online' || name === 'reconnecting';
    $('state').textContent = detail === 'resumed' ? 'Online, session resumed' : labels[name];
    $('login').hidden = session;
    $('chat').hidden = !session;
    $('logout').hidden = !session;
    $('me').hidden = !session;
    $('cut').disabled = name !== 'online';
    for (const field of $('login').elements) field.disabled = name === 'connecting';
    if (name === 'online') {
      $('me').textContent = bare(client.jid);
      $('me').title = client.jid;
      notice(detail === 'resumed' ? 'Back online: session resumed, nothing lost' : `Online as ${client.jid}`);
      if (before === 'connecting') $('text').focus();
    }
    if (name === 'reconnecting' && before === 'online') notice('Connection lost; coming back…');
    if (name === 'offline') {
      client = null;
      waiting.clear();
      document.body.classList.remove('frames');
    }
    showTitle();
  },

  message({ from, to, body, time }) {
    if (bare(from) === bare(client.jid) && bare(to) !== bare(client.jid)) { // sent by another client of this account
      const tick = element('span', { className: 'tick', textContent: '✓', title: 'Sent by another of your clients' });
      tick.setAttribute('role', 'img');
      tick.setAttribute('aria-label', 'sent elsewhere');
      return bubble({ className: 'mine', body, time, from: bare(to) === contact ? '' : `to ${bare(to)}`, tick });
    }
    bubble({ className: 'theirs', body, time, from: bare(from) === contact ? '' : bare(from) });
    if (document.hidden) unread++;
    showTitle();
  },

  delivered(id) {
    const tick = waiting.get(id);
    if (!tick) return;
    waiting.delete(id);
    tick.textContent = '✓';
    tick.title = 'The server has it';
    tick.setAttribute('aria-label', 'sent');
  },

  frame(direction, text) {
    const name = /^<\/?([^\s/>]+)/.exec(text)?.[1] ?? '';
    const row = frameRow({
      className: direction,
      mark: direction === 'up' ? '↑' : '↓', label: direction === 'up' ? 'to the server' : 'from the server',
      name, note: `${new TextEncoder().encode(text).length} B`, code: masked(text),
    });
    ['r', 'a'].includes(name) ? foldAcknowledgement(row) : addFrame(row);
  },

  closed(code, reason) {
    addFrame(frameRow({ className: 'closed', mark: '×', label: 'end of the connection', name: `Close ${code}`, note: closeWords(code, reason) }));
  },

  notice,

  problem(text) { $('problem').textContent = text; },
};

$('login').onsubmit = (event) => {
  event.preventDefault();
  $('problem').textContent = '';
  contact = bare($('contact').value.trim());
  $('peer').textContent = contact;
  $('face').textContent = contact[0].toUpperCase();
  $('log').replaceChildren();
  client = new Client({ endpoint: document.body.dataset.endpoint, jid: $('jid').value.trim(), password: $('password').value, on });
  client.connect();
};

$('composer').onsubmit = (event) => {
  event.preventDefault();
  const body = $('text').value;
  if (!body.trim() || !client) return;
  const tick = element('span', { className: 'tick', textContent: '…', title: 'On its way' });
  tick.setAttribute('role', 'img');
  tick.setAttribute('aria-label', 'on its way');
  bubble({ className: 'mine', body, time: new Date(), tick });
  log.toEnd();
  const id = client.newId();
  waiting.set(id, tick); // first: without XEP-0198 delivered is called at once
  client.message(contact, body, id);
  $('text').value = '';
  $('text').focus();
};

function showFrames(shown) {
  document.body.classList.toggle('frames', shown);
  $('show-frames').setAttribute('aria-expanded', shown);
  if (shown) wire.toEnd();
  (shown ? $('hide-frames') : $('show-frames')).focus();
}
$('show-frames').onclick = () => showFrames(true);
$('hide-frames').onclick = () => showFrames(false);
$('cut').onclick = () => client?.cut();
$('logout').onclick = () => client?.logout();

// Phones suspend pages and drop their connections; look when they return.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  unread = 0;
  showTitle();
  client?.resume();
});
addEventListener('online', () => client?.resume());
addEventListener('pagehide', () => client?.logout());

if (link.get('password')) $('login').requestSubmit();
