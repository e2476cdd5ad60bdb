// Converse.js in Chromium: two users log in, chat, meet in a room; one loses the connection and resumes; both leave.
import { connect, createServer as createTCPServer } from 'node:net';
import { listen, serve, withBrowser } from './browser.mjs';
import { alice, bob, domain, equal, fail, muc, note, password, room, step, text, url, within } from './lib.mjs';

// A TCP forwarder to the gateway: a network that can be cut.
class Network {
  sockets = new Set();

  async start() {
    const target = new URL(url);
    this.server = await listen(createTCPServer((near) => {
      const far = connect(Number(target.port), target.hostname);
      for (const [socket, other] of [[near, far], [far, near]]) {
        this.sockets.add(socket);
        socket.on('error', () => {}).on('close', () => { this.sockets.delete(socket); other.destroy(); }).pipe(other);
      }
    }));
    this.url = `ws://127.0.0.1:${this.server.address().port}${target.pathname}`;
    return this;
  }

  cut() {
    for (const socket of this.sockets) socket.resetAndDestroy();
  }
}

class User {
  frames = []; // "<" from the gateway, ">" to it

  constructor(name, browser, site) {
    Object.assign(this, { name, browser, site });
  }

  async start() {
    this.network = await new Network().start();
    this.page = await (await this.browser.newContext()).newPage();
    this.page.setDefaultTimeout(20000);
    this.page.on('websocket', (socket) => {
      socket.on('framesent', ({ payload }) => this.frame('>', payload));
      socket.on('framereceived', ({ payload }) => this.frame('<', payload));
    });
    this.page.on('pageerror', (error) => note(this.name, error));
    const query = new URLSearchParams({ url: this.network.url, jid: `${this.name}@${domain}`, password, muc });
    await this.page.goto(`${this.site}?${query}`);
    await this.page.waitForFunction(() => window.api?.connection.connected() && document.querySelector('#controlbox'));
    await this.until('<', '<enabled ');
    await this.until('<', '<presence ');
  }

  frame(direction, payload) {
    this.frames.push(direction + payload);
    note(`${this.name} ${direction}`, payload);
  }

  count(direction, part) {
    return this.frames.filter((f) => f[0] === direction && f.includes(part)).length;
  }

  // Waits for a frame.
  until(direction, part, times = 1) {
    return within((async () => {
      while (this.count(direction, part) < times) await new Promise((resolve) => setTimeout(resolve, 20));
    })(), `${this.name}: frame ${direction} ${part}`, 20000);
  }

  // Shows a conversation; the one shown before is hidden.
  async open(jid) {
    await this.page.evaluate(([kind, jid, nick]) => window.api[kind].open(jid, kind === 'rooms' ? { nick } : {}, true).then(() => {}),
      [jid === room ? 'rooms' : 'chats', jid, this.name]);
    await this.box(jid).waitFor();
  }

  box(jid) {
    return this.page.locator(`converse-${jid === room ? 'muc' : 'chat'}[jid="${jid}"] .chat-textarea`);
  }

  async write(jid, body) {
    await this.box(jid).fill(body);
    await this.box(jid).press('Enter');
  }

  async read(body) {
    await this.page.waitForFunction((body) => [...document.querySelectorAll('.chat-msg__text')].some((e) => e.textContent.trim() === body), body);
  }

  // How often a message is on the page.
  shown(body) {
    return this.page.evaluate((body) => [...document.querySelectorAll('.chat-msg__text')].filter((e) => e.textContent.trim() === body).length, body);
  }
}

try {
  await withBrowser(async (browser) => {
    const site = await serve('converse.html');
    const a = new User(alice, browser, site), b = new User(bob, browser, site);
    await a.start();
    await b.start();
    step('login');

    const [jidA, jidB] = [`${alice}@${domain}`, `${bob}@${domain}`];
    await a.open(jidB);
    await a.write(jidB, text);
    await b.open(jidA);
    await b.read(text);
    await b.write(jidA, `${text} too`);
    await a.read(`${text} too`);
    step('chat');

    if (muc) {
      for (const user of [a, b]) {
        await user.open(room);
        await user.until('<', "code='110'");
      }
      await a.write(room, 'room one');
      await b.read('room one');
      await b.write(room, 'room two');
      await a.read('room two');
      step('room');
    }

    await a.open(jidB);
    await b.open(jidA);
    a.network.cut();
    await b.write(jidA, 'while away');
    step('cut');
    await a.until('<', '<resumed ');
    equal(a.count('>', '<resume '), 1, 'resumptions');
    step('resumed');
    await b.write(jidA, 'after');
    await a.read('after');
    equal([await a.shown('while away'), await a.shown('after')], [1, 1], 'copies shown');
    equal(a.count('<', '<body>while away</body>'), 1, 'copies received');
    await a.write(jidB, 'after too');
    await b.read('after too');
    step('replayed');

    for (const user of [a, b]) {
      await user.page.evaluate(() => window.api.user.logout().then(() => {}));
      await user.until('>', '<close ');
      step('close');
    }
  });
  process.exit(0);
} catch (error) {
  fail(error);
}
