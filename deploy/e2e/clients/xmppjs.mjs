// xmpp.js: login, chat, room, cut, resumption (by itself), close.
import { WebSocket } from 'ws';
import { Inbox, alice, bob, domain, equal, fail, note, password, room, step, text, url, within } from './lib.mjs';

globalThis.WebSocket ??= WebSocket; // Node has one of its own from version 22 on
const { client, xml } = await import('@xmpp/client');

class User {
  inbox = new Inbox();
  presences = new Inbox();

  constructor(username) {
    this.client = client({ service: url, domain, username, password, resource: 'xmppjs', timeout: 10000 });
    this.client.on('error', (error) => note(`${username} error`, error));
    this.client.on('element', (el) => note(`${username} <`, el));
    this.client.on('send', (el) => note(`${username} >`, el));
    this.client.on('stanza', (s) => {
      if (s.is('message') && s.getChild('body')) this.inbox.push({ type: s.attrs.type, from: s.attrs.from, body: s.getChildText('body') });
      if (s.is('presence')) this.presences.push(s.attrs.from);
    });
  }

  async connect() {
    this.jid = (await within(this.client.start(), 'start')).toString();
    await this.client.send(xml('presence'));
    await this.presences.until((from) => from === this.jid, 'own presence');
  }

  chat(to, body, type = 'chat') {
    return this.client.send(xml('message', { to, type }, xml('body', {}, body)));
  }

  async join(nick) {
    await this.client.send(xml('presence', { to: `${room}/${nick}` }, xml('x', 'http://jabber.org/protocol/muc')));
    await this.presences.until((from) => from === `${room}/${nick}`, `${nick} in the room`);
  }
}

function once(emitter, event, what) {
  return within(new Promise((resolve) => emitter.once(event, resolve)), what);
}

try {
  const a = new User(alice), b = new User(bob);
  await a.connect();
  await b.connect();
  equal(a.client.streamManagement.enabled, true, 'stream management');
  step('login');

  await a.chat(b.jid, text);
  equal(await b.inbox.chatsUntil(text), [text], 'chat to bob');
  await b.chat(a.jid, text);
  equal(await a.inbox.chatsUntil(text), [text], 'chat to alice');
  step('chat');

  await a.join('al');
  await a.client.iqCaller.request(xml('iq', { type: 'set', to: room },
    xml('query', 'http://jabber.org/protocol/muc#owner', xml('x', { xmlns: 'jabber:x:data', type: 'submit' }))));
  await b.join('bo');
  for (const [from, to, body] of [[a, b, 'room one'], [b, a, 'room two']]) {
    await from.chat(room, body, 'groupchat');
    await to.inbox.until((m) => m.type === 'groupchat' && m.body === body, body);
  }
  step('room');

  a.inbox.entries = [];
  b.inbox.entries = [];
  a.client.reconnect.delay = 100;
  const id = a.client.streamManagement.id;
  const resumed = once(a.client.streamManagement, 'resumed', 'resumption');
  const lost = once(a.client, 'disconnect', 'the loss of the connection');
  await a.chat(b.jid, 'into the cut');
  a.client.socket.socket.terminate();
  await b.chat(a.jid, 'while away');
  await lost;
  step('cut');
  await resumed;
  equal(a.client.streamManagement.id, id, 'session');
  step('resumed');
  await b.chat(a.jid, 'after');
  equal(await a.inbox.chatsUntil('after'), ['while away', 'after'], 'replayed to alice');
  await a.chat(b.jid, 'after');
  equal(await b.inbox.chatsUntil('after'), ['into the cut', 'after'], 'sent again to bob');
  step('replayed');

  for (const user of [a, b]) {
    const closed = within(new Promise((resolve) => user.client.socket.socket.addEventListener('close', resolve)), 'close');
    await within(user.client.stop(), 'stop');
    step('close', { code: (await closed).code });
  }
  process.exit(0);
} catch (error) {
  fail(error);
}
