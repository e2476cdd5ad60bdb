// The page around the client: what is shown, and when.

import { Client, bare, masked } from './xmpp.js';

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

// The links that the demo prints fill in the form: ?jid=…&to=…
const query = new URLSearchParams(location.search);
if (query.get('jid')) $('jid').value = query.get('jid');
if (query.get('to')) $('contact').value = query.get('to');

function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

// append keeps the end of a list in sight, unless the reader has scrolled back.
function append(list, item, always) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.append(item);
  if (atEnd || always) list.scrollTop = list.scrollHeight;
}

function notice(text) {
  $('problem').textContent = text;
  append($('log'), element('li', { className: 'notice', textContent: text }));
}

function bubble({ className, body, time, from, tick }) {
  const stamp = element('time', { dateTime: time.toISOString(), title: time.toLocaleString(), textContent: clock.format(time) });
  const item = element('li', { className });
  if (from) item.append(element('b', { textContent: from }));
  item.append(element('p', { textContent: body }), element('footer', {}, stamp, ...(tick ? [tick] : [])));
  append($('log'), item, tick);
}

function showTitle() {
  document.title = (unread ? `(${unread}) ` : '') + (client ? `${contact} · ${title}` : title);
}

const on = {
  state(name, detail) {
    const before = document.body.dataset.state;
    document.body.dataset.state = name;
    $('state').textContent = labels[name];
    const session = name === 'online' || name === 'reconnecting';
    $('login').hidden = session;
    $('chat').hidden = !session;
    $('logout').hidden = !session;
    $('cut').disabled = name !== 'online';
    for (const field of $('login').elements) field.disabled = name === 'connecting';
    if (name === 'online') {
      $('problem').textContent = '';
      notice(detail === 'resumed' ? 'Back online: session resumed, nothing lost' : `Online as ${client.jid}`);
      if (before === 'connecting') $('text').focus();
    }
    if (name === 'reconnecting' && before === 'online') notice('Connection lost; coming back…');
    if (name === 'offline') {
      client = null;
      waiting.clear();
      if (before === 'connecting' && !$('problem').textContent) $('problem').textContent = `No connection to the gateway (${detail})`;
      document.body.classList.remove('frames');
    }
    showTitle();
  },

  message({ from, body, time }) {
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
    const size = new TextEncoder().encode(text).length;
    append($('wire'), element('li', { className: direction },
      element('header', {},
        element('span', { className: 'arrow', textContent: direction === 'up' ? '↑' : '↓', ariaLabel: direction === 'up' ? 'to the server' : 'from the server', role: 'img' }),
        element('b', { textContent: name }),
        element('span', { textContent: `${size} B` }),
        element('time', { textContent: precise.format(new Date()) })),
      element('code', { textContent: masked(text) })));
    if ($('wire').childElementCount > framesKept) $('wire').firstElementChild.remove();
  },

  notice,
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
  const id = client.newId();
  waiting.set(id, tick); // first: without XEP-0198 delivered is called at once
  client.message(contact, body, id);
  $('text').value = '';
  $('text').focus();
};

function showFrames(shown) {
  document.body.classList.toggle('frames', shown);
  $('show-frames').setAttribute('aria-expanded', shown);
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
