// ws, with every kind of offer of permessage-deflate: login, messages to oneself of many sizes, in one frame and in several, close. zlib checks
// that no reference reaches beyond the window that was agreed on.
import { randomBytes } from 'node:crypto';
import WebSocket from 'ws';
import { Inbox, alice, domain, equal, fail, note, password, step, url, within } from './lib.mjs';

const framing = 'urn:ietf:params:xml:ns:xmpp-framing';
const sizes = [16, 64, 256, 1024, 4096, 16384, 65536, 131072];
const stanza = (id, to, body) => `<message xmlns="jabber:client" type="chat" id="${id}" to="${to}"><body>${body}</body></message>`;

// bodies returns texts of a size: like prose, all the same, and without repetition.
function bodies(size) {
  const words = 'wherefore art thou Romeo deny thy father and refuse thy name or if thou wilt not be but sworn my love'.split(' ');
  let prose = '';
  while (prose.length < size) prose += `${words[randomBytes(1)[0] % words.length]} `;
  return [prose.slice(0, size), 'x'.repeat(size), randomBytes(size).toString('base64').slice(0, size)];
}

class Client {
  inbox = new Inbox();

  constructor(perMessageDeflate) {
    this.socket = new WebSocket(url, 'xmpp', { perMessageDeflate });
    this.socket.on('message', (data) => { note('<', data); this.inbox.push(String(data)); });
    this.closed = new Promise((resolve) => this.socket.on('close', resolve));
    this.socket.on('error', fail);
  }

  send(xml, options) { note('>', xml); this.socket.send(xml, options); }

  async next(start) {
    const m = await this.inbox.until((text) => text.startsWith(start), start);
    this.inbox.entries = this.inbox.entries.filter((text) => text !== m);
    return m;
  }

  async login(resource) {
    await within(new Promise((resolve) => this.socket.on('open', resolve)), 'open');
    const open = `<open xmlns="${framing}" to="${domain}" version="1.0"/>`;
    this.send(open);
    await this.next('<stream:features');
    this.send(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">${Buffer.from(`\0${alice}\0${password}`).toString('base64')}</auth>`);
    await this.next('<success');
    this.send(open);
    await this.next('<stream:features');
    this.send(`<iq xmlns="jabber:client" type="set" id="bind"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"><resource>${resource}</resource></bind></iq>`);
    await this.next('<iq');
    this.jid = `${alice}@${domain}/${resource}`;
  }

  // echo sends a message to this very client, in so many frames, and compares what comes back.
  async echo(id, body, frames) {
    const xml = stanza(id, this.jid, body);
    note('>', xml);
    for (let i = 0; i < frames; i++) {
      this.socket.send(xml.slice(xml.length * i / frames, xml.length * (i + 1) / frames), { fin: i === frames - 1 });
    }
    const back = await this.inbox.until((text) => text.includes(`id='${id}'`) || text.includes(`id="${id}"`), `message ${id}`);
    this.inbox.entries = this.inbox.entries.filter((text) => text !== back);
    equal(/<body>([^<]*)<\/body>/.exec(back)?.[1], body, `message ${id}`);
  }
}

try {
  const offers = [{}, { clientNoContextTakeover: true }, { serverNoContextTakeover: true }, { serverNoContextTakeover: true, clientNoContextTakeover: true, clientMaxWindowBits: 9 }];
  for (let bits = 9; bits <= 15; bits++) offers.push({ serverMaxWindowBits: bits, clientMaxWindowBits: bits });
  offers.push({ serverMaxWindowBits: 9, serverNoContextTakeover: true });
  for (const [n, offer] of offers.entries()) {
    const c = new Client({ threshold: 0, ...offer });
    await c.login(`c${n}`);
    const agreed = c.socket.extensions;
    equal(agreed, 'permessage-deflate', 'extension');
    for (const size of sizes) {
      for (const [kind, body] of bodies(size).entries()) {
        await c.echo(`${n}-${size}-${kind}`, body, 1 + kind % 2 * 3);
      }
    }
    // Many short ones at once come back in order.
    const ids = [...Array(200).keys()].map((i) => `${n}-many-${i}`);
    await Promise.all(ids.map((id) => c.echo(id, `message ${id}`, 1)));
    c.send(`<close xmlns="${framing}"/>`);
    await c.next('<close');
    c.socket.close(1000);
    const code = await within(c.closed, 'close');
    equal(code, 1000, 'close code');
    step('offer', { offer, agreed });
  }
  process.exit(0);
} catch (error) {
  fail(error);
}
