// Logs in, asks, talks to itself and leaves, once for each cell of a matrix and all at once:
//
//	node matrix.mjs LIBRARY < CELLS
//
// CELLS is JSON, [{ name, url, domain, user, password }]. Prints { name, error } for each; error is empty if all worked.
import { json } from 'node:stream/consumers';
import { WebSocket } from 'ws';
import { Inbox, within } from './lib.mjs';

globalThis.WebSocket ??= WebSocket; // Node has one of its own from version 22 on

// What a library is used through: open() resolves when a resource is bound, and sets jid; closed(), called before
// close(), resolves with the code of the WebSocket's end. Bodies of messages go to this.inbox.
const libraries = {
  async strophe() {
    const { $iq, $msg, $pres, Strophe } = await import('strophe.js');
    const { Status } = Strophe;
    return class {
      constructor({ url }) {
        this.inbox = new Inbox();
        this.connection = new Strophe.Connection(url);
      }
      async open({ user, domain, password }) {
        const statuses = new Inbox();
        this.connection.connect(`${user}@${domain}/strophe`, password, (status, reason) => statuses.push({ status, reason }));
        const { status, reason } = await statuses.until(
          (s) => [Status.CONNECTED, Status.AUTHFAIL, Status.CONNFAIL, Status.ERROR, Status.DISCONNECTED].includes(s.status), 'connection');
        if (status !== Status.CONNECTED) throw new Error(`status ${status}, ${reason}`);
        this.connection.addHandler((m) => {
          const body = m.getElementsByTagName('body')[0];
          if (body) this.inbox.push(body.textContent);
          return true;
        }, null, 'message');
        this.connection.send($pres());
        this.jid = this.connection.jid;
      }
      request(iq) { return new Promise((resolve, reject) => this.connection.sendIQ(iq, resolve, (e) => reject(new Error(e?.outerHTML ?? 'no answer')))); }
      roster() { return this.request($iq({ type: 'get' }).c('query', { xmlns: 'jabber:iq:roster' })); }
      ping(to) { return this.request($iq({ type: 'get', to }).c('ping', { xmlns: 'urn:xmpp:ping' })); }
      say(to, body) { this.connection.send($msg({ to, type: 'chat' }).c('body').t(body)); }
      closed() { return new Promise((resolve) => this.connection._proto.socket.addEventListener('close', (e) => resolve(e.code))); }
      close() { this.connection.disconnect('done'); }
    };
  },
  async xmppjs() {
    const { client, xml } = await import('@xmpp/client');
    return class {
      constructor({ url, domain, user, password }) {
        this.inbox = new Inbox();
        this.client = client({ service: url, domain, username: user, password, resource: 'xmppjs', timeout: 10000 });
        this.client.reconnect.stop();
        this.failed = new Promise((_, reject) => this.client.on('error', reject));
        this.failed.catch(() => {});
        this.client.on('stanza', (s) => { if (s.is('message') && s.getChild('body')) this.inbox.push(s.getChildText('body')); });
      }
      async login() {
        this.jid = (await Promise.race([this.client.start(), this.failed])).toString();
      }
      async open() {
        await this.login();
        // The library sets its count of stanzas to zero a moment after <enabled/>: too late for those that come with it.
        while (!this.client.streamManagement.enabled) await new Promise(setImmediate);
        await this.client.send(this.presence());
      }
      presence() { return xml('presence'); }
      roster() { return this.client.iqCaller.request(xml('iq', { type: 'get' }, xml('query', 'jabber:iq:roster'))); }
      ping(to) { return this.client.iqCaller.request(xml('iq', { type: 'get', to }, xml('ping', 'urn:xmpp:ping'))); }
      say(to, body) { return this.client.send(xml('message', { to, type: 'chat' }, xml('body', {}, body))); }
      closed() { return new Promise((resolve) => this.client.socket.socket.addEventListener('close', (e) => resolve(e.code))); }
      close() { return this.client.stop(); }
    };
  },
  // xmpp.js where SASL2 and Bind2 are on offer, which it prefers. It loses its connection once and comes back by itself.
  async sasl2() {
    const XMPPjs = await this.xmppjs();
    return class extends XMPPjs {
      seen = [];
      async open() {
        this.client.on('element', (e) => this.seen.push(e));
        await this.login();
        this.check();
        const { reconnect } = this.client;
        const back = new Promise((resolve) => this.client.once('online', resolve));
        reconnect.delay = 100;
        reconnect.start();
        this.client.socket.socket.terminate();
        this.jid = (await within(back, 'the way back')).toString();
        reconnect.stop();
        this.check();
        await this.client.send(this.presence());
      }
      // The login was by SASL2, with a resource bound inside it. (Prosody 0.12 asks for one more bind, and refuses it.)
      check() {
        const success = this.seen.find((e) => e.is('success', 'urn:xmpp:sasl:2'));
        if (!success?.getChild('bound', 'urn:xmpp:bind:0')) throw new Error(`no SASL2 with Bind2: ${this.seen.join(' ')}`);
        const old = this.seen.find((e) => e.is('success', 'urn:ietf:params:xml:ns:xmpp-sasl'));
        if (old) throw new Error(`beside SASL2: ${old}`);
        this.seen = [];
      }
    };
  },
  async stanza() {
    const XMPP = await import('stanza');
    return class {
      constructor({ url, domain, user, password }) {
        this.inbox = new Inbox();
        this.client = XMPP.createClient({
          jid: `${user}@${domain}`, password, resource: 'stanza', transports: { websocket: url, bosh: false }, autoReconnect: false,
        });
        this.client.on('message', (m) => { if (m.body) this.inbox.push(m.body); });
      }
      async open() {
        const started = new Promise((resolve, reject) => {
          this.client.once('session:started', resolve);
          for (const event of ['auth:failed', 'stream:error', 'disconnected']) {
            this.client.once(event, (e) => reject(new Error(`${event} ${JSON.stringify(e)}`)));
          }
        });
        this.client.connect();
        await started;
        this.client.sendPresence();
        this.jid = this.client.jid;
      }
      roster() { return this.client.getRoster(); }
      ping(to) { return this.client.ping(to); }
      say(to, body) { this.client.sendMessage({ to, body, type: 'chat' }); }
      closed() { return new Promise((resolve) => this.client.transport.socket.addEventListener('close', (e) => resolve(e.code))); }
      close() { this.client.disconnect(); }
    };
  },
};

const Client = await libraries[process.argv[2]]();

async function run(cell) {
  let step = 'login';
  try {
    const client = new Client(cell);
    await within(client.open(cell), step);
    step = 'roster';
    await within(client.roster(), step);
    step = 'ping';
    await within(client.ping(cell.domain), step);
    step = 'message to self';
    const text = `${cell.name}: Zoë <&> "' 你好 😀`;
    client.say(client.jid, text);
    await client.inbox.until((body) => body === text, step);
    step = 'close';
    const closed = client.closed();
    client.close();
    const code = await within(closed, step);
    if (code !== 1000 && code !== 1005) throw new Error(`close code ${code}`); // Strophe closes without a code, if it is first
    return '';
  } catch (error) {
    return `${step}: ${error?.stack ?? JSON.stringify(error)}`;
  }
}

process.on('unhandledRejection', () => {}); // of what runs beside a step that has failed already
const cells = await json(process.stdin);
await Promise.all(cells.map(async (cell) => console.log(JSON.stringify({ name: cell.name, error: await run(cell) }))));
process.exit(0);
