// What the client scripts share. Each is called as
//
//	node SCRIPT URL DOMAIN MUC ALICE BOB PASSWORD
//
// and prints one line of JSON for each step that worked. The exit code is 0 when all of them did.

export const [url, domain, muc, alice, bob, password] = process.argv.slice(2);
export const text = 'Zoë <&> "\'" Привет 你好 😀';
export const room = `room-${alice}@${muc}`;

const started = Date.now();
const trace = []; // the last stanzas, for a failure

export function step(name, detail = {}) {
  console.log(JSON.stringify({ step: name, ms: Date.now() - started, ...detail }));
}

export function note(direction, xml) {
  trace.push(`${Date.now() - started} ms ${direction} ${String(xml).slice(0, 400)}`);
  if (trace.length > 40) trace.shift();
}

export function fail(error) {
  console.error(trace.join('\n'));
  console.error('FAILED:', error?.stack ?? error);
  process.exit(1);
}

export function equal(got, want, what) {
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    throw new Error(`${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
  }
}

// Rejects when the promise takes too long.
export function within(promise, what, ms = 15000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A list that can be awaited: until() resolves with the first entry that matches, past or future.
export class Inbox {
  entries = [];
  #waiting = [];

  push(entry) {
    this.entries.push(entry);
    this.#waiting = this.#waiting.filter((w) => {
      if (!w.match(entry)) return true;
      w.resolve(entry);
      return false;
    });
  }

  until(match, what) {
    const found = this.entries.find(match);
    if (found !== undefined) return Promise.resolve(found);
    return within(new Promise((resolve) => this.#waiting.push({ match, resolve })), what);
  }

  // The bodies of chats, up to one that closes the list; an entry is { type, from, body }.
  async chatsUntil(last) {
    await this.until((m) => m.body === last, `message ${last}`);
    const bodies = this.entries.filter((m) => m.type === 'chat').map((m) => m.body);
    this.entries = [];
    return bodies;
  }
}

process.on('unhandledRejection', fail);
process.on('uncaughtException', fail);
