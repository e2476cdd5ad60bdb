// An XMPP client over WebSocket (RFC 7395): log in, bind, chat, see what other
// clients of the account send and get (XEP-0280), and survive a lost connection
// with Stream Management (XEP-0198).

import { child, parse, xml } from './xml.js';
import { Scram, choose, encode } from './scram.js';
import { closeWords, loginWords, stanzaWords, streamWords } from './words.js';

const NS = {
  bind: 'urn:ietf:params:xml:ns:xmpp-bind',
  carbons: 'urn:xmpp:carbons:2',
  delay: 'urn:xmpp:delay',
  forward: 'urn:xmpp:forward:0',
  framing: 'urn:ietf:params:xml:ns:xmpp-framing',
  ping: 'urn:xmpp:ping',
  sasl: 'urn:ietf:params:xml:ns:xmpp-sasl',
  sm: 'urn:xmpp:sm:3',
};
const silence = 10_000; // ms without an answer to <r/> until the link counts as dead
const givenUp = ['conflict', 'host-unknown', 'not-authorized', 'policy-violation', 'reset']; // stream errors: do not come back

export const bare = (jid) => jid.split('/')[0];

// masked hides what a SASL exchange carries, and nothing else: a frame is shown
// to whoever looks at the screen.
export const masked = (frame) => frame.replace(/^(<(?:auth|challenge|response|success)\b[^>]*>)[^<]+/, '$1•••');

export class Client {
  #endpoint; #user; #domain; #password; #on;
  #socket = null;
  #wanted = false;  // the user wants to be online
  #online = false;  // stanzas may be sent
  #authenticated = false;
  #closing = false; // <close/> is sent: nothing may follow
  #scram = null;
  #sm = null;       // {id, received, acked, on}: a stream-management session
  #queue = [];      // {id, text}: stanzas the server has not acknowledged, in order
  #retries = 0;
  #timer = 0;       // the next attempt to connect
  #watch = 0;       // the dead-link timer

  jid = null;       // the full JID once bound

  // on has the callbacks
  //   state(name, detail)  detail is "resumed" or "new session" when online
  //   frame(direction, text), closed(code, reason)
  //   message({from, to, body, time})  from is our own when another client sent it
  //   delivered(id)
  //   notice(text)   the session goes on
  //   problem(text)  there is no session, and this is why
  constructor({ endpoint, jid, password, on }) {
    [this.#user, this.#domain] = bare(jid).split('@');
    this.#endpoint = endpoint;
    this.#password = password;
    this.#on = on;
  }

  connect() {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#wanted = true;
    this.#authenticated = false;
    this.#closing = false;
    this.#scram = null;
    this.#on.state(this.jid ? 'reconnecting' : 'connecting');

    const socket = this.#socket = new WebSocket(this.#endpoint, 'xmpp');
    // SCRAM computes asynchronously; frames and the end wait for their turn.
    let turn = Promise.resolve();
    const inTurn = (step) => (event) => {
      turn = turn.then(() => socket === this.#socket && step(event)).catch((error) => this.#fail(error.message));
    };
    socket.onopen = inTurn(() => this.#header());
    socket.onmessage = inTurn((event) => this.#receive(event.data));
    socket.onclose = inTurn((event) => this.#closed(event.code, event.reason));
  }

  // resume is connect for someone who waits: at once instead of after a delay.
  resume() {
    if (this.#wanted && !this.#socket) this.connect();
    else if (this.#online && this.#sm) this.#probe();
  }

  // cut drops the connection as a bad network does: without a farewell, so that
  // the server keeps the session for a while.
  cut() {
    const socket = this.#socket;
    if (!socket) return;
    this.#closed(4000, '');
    socket.close(4000, 'cut'); // may take long on a dead link; nobody waits for it
  }

  logout() {
    this.#wanted = false;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    if (!socket) return this.#offline();
    if (socket.readyState !== WebSocket.OPEN) return this.cut();
    this.#close(); // the other side answers and closes
    setTimeout(() => socket === this.#socket && this.cut(), 5000);
  }

  newId() { return crypto.getRandomValues(new Uint32Array(2)).join('-'); }

  // message is sent now or, while the connection is away, when it is back;
  // delivered is called with the id once the server has it.
  message(to, body, id) {
    this.#stanza(xml`<message xmlns="jabber:client" type="chat" to="${to}" id="${id}"><body>${body}</body></message>`, id);
    return id;
  }

  // Out.

  #send(text) {
    this.#on.frame('up', text);
    this.#socket.send(text);
  }

  #header() { this.#send(xml`<open xmlns="${NS.framing}" to="${this.#domain}" version="1.0"/>`); }

  #close() {
    if (!this.#closing) this.#send(xml`<close xmlns="${NS.framing}"/>`);
    this.#closing = true;
  }

  #stanza(text, id) {
    this.#queue.push({ text, id });
    if (this.#online) this.#transmit([{ text, id }]);
  }

  #transmit(stanzas) {
    for (const { text } of stanzas) this.#send(text);
    if (!this.#sm) this.#settle(stanzas.length); // nobody will tell
    else if (stanzas.some(({ id }) => id)) this.#probe();
  }

  // settle takes the oldest stanzas as arrived at the server.
  #settle(count) {
    for (const { id } of this.#queue.splice(0, count)) if (id) this.#on.delivered(id);
  }

  #probe() {
    this.#send(xml`<r xmlns="${NS.sm}"/>`);
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.cut(), silence);
  }

  // In.

  async #receive(text) {
    clearTimeout(this.#watch);
    this.#on.frame('down', text);
    const element = parse(text);
    if (!element) return this.#fail('the server sent broken XML');
    if (this.#sm?.on && ['iq', 'message', 'presence'].includes(element.localName)) this.#sm.received++;
    switch (element.localName) {
      case 'features': return this.#authenticated ? this.#bind(element) : this.#login(element);
      case 'challenge': return this.#send(xml`<response xmlns="${NS.sasl}">${await this.#scram.answer(element.textContent)}</response>`);
      case 'success': return this.#success(element);
      case 'failure': return this.#fail(loginWords(element));
      case 'enabled': return this.#enabled(element);
      case 'resumed': return this.#resumed(element);
      case 'failed': return this.#failed(element);
      case 'r': return !this.#closing && this.#send(xml`<a xmlns="${NS.sm}" h="${this.#sm?.received ?? 0}"/>`);
      case 'a': return this.#acknowledged(element);
      case 'iq': return this.#iq(element);
      case 'message': return this.#message(element);
      case 'error': return this.#streamError(element);
      case 'close': return this.#close(); // then the gateway closes
    }
  }

  #login(features) {
    const offered = [...child(features, 'mechanisms', NS.sasl)?.children ?? []].map((m) => m.textContent);
    const scram = choose(offered);
    if (scram) {
      this.#scram = new Scram(scram, this.#user, this.#password);
      this.#send(xml`<auth xmlns="${NS.sasl}" mechanism="${scram}">${this.#scram.start()}</auth>`);
    } else if (offered.includes('PLAIN')) {
      this.#send(xml`<auth xmlns="${NS.sasl}" mechanism="PLAIN">${encode(`\0${this.#user}\0${this.#password}`)}</auth>`);
    } else {
      this.#fail(`no common login mechanism; the server offers ${offered.join(', ') || 'none'}`);
    }
  }

  #success(element) {
    if (this.#scram && !this.#scram.verify(element.textContent)) return this.#fail('the server did not prove that it knows the password');
    this.#authenticated = true;
    this.#header(); // the stream starts again, on the same socket
  }

  #bind(features) {
    this.#sm = child(features, 'sm', NS.sm) ? this.#sm ?? {} : null;
    if (this.#sm?.id) {
      this.#send(xml`<resume xmlns="${NS.sm}" previd="${this.#sm.id}" h="${this.#sm.received}"/>`);
    } else {
      this.#send(xml`<iq xmlns="jabber:client" type="set" id="bind"><bind xmlns="${NS.bind}"/></iq>`);
    }
  }

  #bound(iq) {
    if (iq.getAttribute('type') !== 'result') return this.#fail(`The server opened no session: ${stanzaWords(child(iq, 'error'))}`);
    this.jid = child(child(iq, 'bind', NS.bind), 'jid').textContent;
    // Of an earlier session that could not be resumed, the messages go again.
    this.#queue = [
      { text: xml`<iq xmlns="jabber:client" type="set" id="carbons"><enable xmlns="${NS.carbons}"/></iq>` }, // may be refused
      { text: xml`<presence xmlns="jabber:client"/>` },
      ...this.#queue.filter(({ id }) => id),
    ];
    if (this.#sm) this.#send(xml`<enable xmlns="${NS.sm}" resume="true"/>`);
    else this.#ready('new session');
  }

  #enabled(element) {
    const resumable = ['true', '1'].includes(element.getAttribute('resume'));
    this.#sm = { on: true, id: resumable && element.getAttribute('id'), received: 0, acked: 0 };
    this.#ready('new session');
  }

  #resumed(element) {
    this.#acknowledged(element);
    this.#ready('resumed');
  }

  // failed refuses <enable/>, which leaves a plain session, or <resume/>, which
  // asks for a new one.
  #failed(element) {
    const resuming = this.#sm?.id;
    if (resuming && element.hasAttribute('h')) this.#acknowledged(element);
    this.#sm = resuming ? {} : null;
    if (!resuming) return this.#ready('new session');
    this.#send(xml`<iq xmlns="jabber:client" type="set" id="bind"><bind xmlns="${NS.bind}"/></iq>`);
  }

  #ready(how) {
    this.#online = true;
    this.#retries = 0;
    this.#on.state('online', how);
    this.#transmit([...this.#queue]);
  }

  #acknowledged(element) {
    if (!this.#sm?.on) return;
    const h = Number(element.getAttribute('h'));
    this.#settle((h - this.#sm.acked) >>> 0); // the counter wraps at 2^32
    this.#sm.acked = h;
  }

  #iq(iq) {
    const type = iq.getAttribute('type'), id = iq.getAttribute('id');
    if (id === 'bind' && !this.#online) return this.#bound(iq);
    if (type !== 'get' && type !== 'set') return;
    const to = iq.getAttribute('from') ?? this.#domain;
    this.#stanza(child(iq, 'ping', NS.ping)
      ? xml`<iq xmlns="jabber:client" type="result" id="${id}" to="${to}"/>`
      : xml`<iq xmlns="jabber:client" type="error" id="${id}" to="${to}"><error type="cancel"><service-unavailable xmlns="urn:ietf:params:xml:ns:xmpp-stanzas"/></error></iq>`);
  }

  #message(message) {
    const carbon = child(message, 'sent', NS.carbons) ?? child(message, 'received', NS.carbons);
    if (!carbon) return this.#show(message, message);
    // Only our own account may tell what we sent and got; from anybody else it is forged.
    const from = message.getAttribute('from');
    if (from && from !== bare(this.jid)) return;
    const forwarded = child(carbon, 'forwarded', NS.forward);
    const original = child(forwarded, 'message');
    if (original) this.#show(original, forwarded);
  }

  // show hands over a message; what holds it says when it was sent.
  #show(message, holder) {
    const from = message.getAttribute('from') ?? this.#domain;
    if (message.getAttribute('type') === 'error') {
      return this.#on.notice(`Not delivered to ${bare(from)}: ${stanzaWords(child(message, 'error'))}`);
    }
    const body = child(message, 'body')?.textContent;
    const stamp = child(holder, 'delay', NS.delay)?.getAttribute('stamp');
    if (body) this.#on.message({ from, to: message.getAttribute('to') ?? this.jid, body, time: stamp ? new Date(stamp) : new Date() });
  }

  #streamError(error) {
    const condition = error.firstElementChild?.localName;
    if (givenUp.includes(condition) || !this.jid) this.#wanted = false;
    this.#wanted ? this.#on.notice(streamWords(error)) : this.#on.problem(streamWords(error));
  }

  // Endings.

  #fail(reason) {
    this.#wanted = false;
    this.#on.problem(reason[0].toUpperCase() + reason.slice(1));
    this.logout();
  }

  #closed(code, reason) {
    this.#on.closed(code, reason);
    clearTimeout(this.#watch);
    this.#socket = null;
    this.#online = false;
    // Only who was online comes back by itself; the first failure is the user's to see.
    if (!this.#wanted || !this.jid) {
      if (this.#wanted) this.#on.problem(code === 1006
        ? `No connection to the gateway at ${this.#endpoint}: is it running?`
        : `The gateway ended the connection: ${closeWords(code, reason)}`);
      return this.#offline();
    }
    const wait = Math.min(500 * 2 ** this.#retries++, 15_000) * (0.75 + Math.random() / 2);
    this.#on.state('reconnecting');
    this.#timer = setTimeout(() => this.connect(), wait);
  }

  #offline() {
    this.#wanted = false;
    this.#sm = null;
    this.jid = null;
    this.#on.state('offline');
  }
}
