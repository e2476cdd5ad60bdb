// stanza (formerly stanza.io): login, chat, room, cut, resumption, close.
import * as XMPP from 'stanza';
import { Inbox, alice, bob, domain, equal, fail, note, password, room, step, text, url, within } from './lib.mjs';

function once(emitter, event, what) {
  return within(new Promise((resolve) => emitter.once(event, resolve)), what);
}

class User {
  inbox = new Inbox();

  constructor(name) {
    this.client = XMPP.createClient({
      jid: `${name}@${domain}`, password, resource: 'stanza', transports: { websocket: url, bosh: false }, autoReconnect: false,
    });
    this.client.on('raw', (direction, xml) => note(`${name} ${direction}`, xml));
    this.client.on('message', (m) => { if (m.body) this.inbox.push(m); });
  }

  async connect() {
    const started = once(this.client, 'session:started', 'session');
    this.client.connect();
    await started;
    const available = once(this.client, 'available', 'own presence');
    this.client.sendPresence();
    await available;
  }

  chat(to, body, type = 'chat') {
    this.client.sendMessage({ to, body, type });
  }
}

try {
  const a = new User(alice), b = new User(bob);
  await a.connect();
  await b.connect();
  equal(a.client.sm.started, true, 'stream management');
  step('login');

  a.chat(b.client.jid, text);
  equal(await b.inbox.chatsUntil(text), [text], 'chat to bob');
  b.chat(a.client.jid, text);
  equal(await a.inbox.chatsUntil(text), [text], 'chat to alice');
  step('chat');

  await within(a.client.joinRoom(room, 'al'), 'room');
  await within(a.client.configureRoom(room, {}), 'configuration of the room');
  await within(b.client.joinRoom(room, 'bo'), 'room');
  for (const [from, to, body] of [[a, b, 'room one'], [b, a, 'room two']]) {
    from.chat(room, body, 'groupchat');
    await to.inbox.until((m) => m.type === 'groupchat' && m.body === body, body);
  }
  step('room');

  a.inbox.entries = [];
  b.inbox.entries = [];
  const id = a.client.sm.id, jid = a.client.jid;
  const lost = once(a.client, 'disconnected', 'the loss of the connection');
  // stanza never notices the loss if it still has something to write to the closed socket.
  const written = within(new Promise((resolve) => a.client.on('raw', (_, xml) => { if (xml.includes('into the cut')) setImmediate(resolve); })), 'writing');
  a.chat(b.client.jid, 'into the cut');
  await written;
  a.client.transport.socket.terminate();
  b.chat(jid, 'while away');
  await lost;
  step('cut');
  const resumed = once(a.client, 'stream:management:resumed', 'resumption');
  a.client.connect();
  await resumed;
  equal(a.client.sm.id, id, 'session');
  step('resumed');
  b.chat(jid, 'after');
  equal(await a.inbox.chatsUntil('after'), ['while away', 'after'], 'replayed to alice');
  a.chat(b.client.jid, 'after');
  equal(await b.inbox.chatsUntil('after'), ['into the cut', 'after'], 'sent again to bob');
  step('replayed');

  for (const user of [a, b]) {
    const closed = within(new Promise((resolve) => user.client.transport.socket.addEventListener('close', resolve)), 'close');
    const disconnected = once(user.client, 'disconnected', 'disconnection');
    user.client.disconnect();
    await disconnected;
    step('close', { code: (await closed).code });
  }
  process.exit(0);
} catch (error) {
  fail(error);
}
