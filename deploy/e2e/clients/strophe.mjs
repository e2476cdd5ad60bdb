// Strophe.js, the library below Converse.js and Jitsi Meet: login, chat, room, cut, resumption, close.
import { $iq, $pres, Strophe, stx } from 'strophe.js';
import { Inbox, alice, bob, domain, equal, fail, note, password, room, step, text, url, within } from './lib.mjs';

const { Status } = Strophe;

class User {
  inbox = new Inbox();
  presences = new Inbox();
  statuses = new Inbox();

  constructor(name) {
    this.name = name;
    this.connection = new Strophe.Connection(url, {
      enableStreamManagement: true,
      streamManagement: { requestResume: true, maxUnacked: 1 },
    });
    this.connection.rawInput = (xml) => note(`${name} <`, xml);
    this.connection.rawOutput = (xml) => note(`${name} >`, xml);
  }

  async connect() {
    this.listen(); // a loss of the connection drops all handlers
    this.statuses.entries = [];
    this.connection.connect(`${this.name}@${domain}/strophe`, password, (status, reason) => this.statuses.push({ status, reason }));
    const { status, reason } = await this.statuses.until(
      (s) => [Status.CONNECTED, Status.AUTHFAIL, Status.CONNFAIL, Status.ERROR].includes(s.status), 'connection');
    if (status !== Status.CONNECTED) throw new Error(`${this.name}: status ${status}, ${reason}`);
  }

  listen() {
    this.connection.addHandler((m) => {
      const body = m.getElementsByTagName('body')[0];
      if (body) this.inbox.push({ type: m.getAttribute('type'), from: m.getAttribute('from'), body: body.textContent });
      return true;
    }, null, 'message');
    this.connection.addHandler((p) => { this.presences.push(p.getAttribute('from')); return true; }, null, 'presence');
  }

  chat(to, body, type = 'chat') {
    this.connection.send(stx`<message to="${to}" type="${type}" xmlns="jabber:client"><body>${body}</body></message>`);
  }

  async join(nick) {
    this.connection.send($pres({ to: `${room}/${nick}` }).c('x', { xmlns: 'http://jabber.org/protocol/muc' }));
    await this.presences.until((from) => from === `${room}/${nick}`, `${nick} in the room`);
  }
}

try {
  const a = new User(alice), b = new User(bob);
  for (const user of [a, b]) {
    await user.connect();
    user.connection.send($pres());
    await user.presences.until((from) => from === user.connection.jid, 'own presence');
  }
  step('login', { mechanism: a.connection._sasl_mechanism?.mechname });

  a.chat(b.connection.jid, text);
  equal(await b.inbox.chatsUntil(text), [text], 'chat to bob');
  b.chat(a.connection.jid, text);
  equal(await a.inbox.chatsUntil(text), [text], 'chat to alice');
  step('chat');

  await a.join('al');
  await within(new Promise((resolve, reject) => a.connection.sendIQ($iq({ to: room, type: 'set' })
    .c('query', { xmlns: 'http://jabber.org/protocol/muc#owner' }).c('x', { xmlns: 'jabber:x:data', type: 'submit' }), resolve, reject)), 'configuration of the room');
  await b.join('bo');
  for (const [from, to, body] of [[a, b, 'room one'], [b, a, 'room two']]) {
    from.chat(room, body, 'groupchat');
    await to.inbox.until((m) => m.type === 'groupchat' && m.body === body, body);
  }
  step('room');

  a.inbox.entries = [];
  b.inbox.entries = [];
  a.chat(b.connection.jid, 'into the cut');
  const gone = a.statuses.until((s) => s.status === Status.DISCONNECTED, 'the loss of the connection');
  a.connection._proto.socket.terminate();
  b.chat(a.connection.jid, 'while away');
  await gone;
  step('cut');
  await a.connect();
  equal(a.connection.hasResumed(), true, 'resumed');
  step('resumed');
  b.chat(a.connection.jid, 'after');
  equal(await a.inbox.chatsUntil('after'), ['while away', 'after'], 'replayed to alice');
  a.chat(b.connection.jid, 'after');
  equal(await b.inbox.chatsUntil('after'), ['into the cut', 'after'], 'sent again to bob');
  step('replayed');

  for (const user of [a, b]) {
    user.statuses.entries = [];
    const closed = within(new Promise((resolve) => user.connection._proto.socket.addEventListener('close', resolve)), 'close');
    user.connection.disconnect('done');
    const { code } = await closed;
    step('close', { code });
  }
  process.exit(0);
} catch (error) {
  fail(error);
}
