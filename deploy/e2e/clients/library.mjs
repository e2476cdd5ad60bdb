// A client of a JavaScript library that does what it is told; README.md has the commands.
//
//	node library.mjs PACKAGE URL DOMAIN USER PASSWORD
//
// PACKAGE is the name of a directory in node_modules: there are several versions of some libraries.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { WebSocket } from 'ws';

globalThis.WebSocket ??= WebSocket; // Node has one of its own from version 22 on
const [pkg, url, domain, user, password] = process.argv.slice(2);

function tell(event, ...args) {
  console.log(['>', event, ...args].join(' '));
}

function received(body) {
  if (body) tell('message', Buffer.from(body).toString('base64'));
}

// What a library is used through: connect() and close() only begin; what comes of them is told.
const libraries = {
  async strophe() {
    // Before version 5, the ES modules do not find their DOM in Node.js.
    const { $msg, $pres, Strophe } = pkg === 'strophe.js' ? await import(pkg) : createRequire(import.meta.url)(pkg);
    const { Status } = Strophe;
    const connection = new Strophe.Connection(url, { enableStreamManagement: true, streamManagement: { requestResume: true, maxUnacked: 1 } });
    let online = false, leaving = false;
    const changed = (status, reason) => {
      switch (status) {
        case Status.CONNECTED: {
          online = true;
          const resumed = connection.hasResumed?.() ?? false; // from version 5 on
          if (!resumed) connection.send($pres());
          tell('online', connection.jid, resumed ? 'resumed' : 'new');
          break;
        }
        case Status.AUTHFAIL:
        case Status.CONNFAIL:
          if (!online) tell('failed', `status ${status}, ${reason}`);
          break;
        case Status.DISCONNECTED:
          if (online) tell(leaving ? 'closed' : 'lost');
          online = false;
      }
    };
    return {
      connect() {
        connection.addHandler((m) => { received(m.getElementsByTagName('body')[0]?.textContent); return true; }, null, 'message'); // a loss drops handlers
        connection.connect(`${user}@${domain}/strophe`, password, changed);
      },
      say(to, body) { connection.send($msg({ to, type: 'chat' }).c('body').t(body)); },
      close() { leaving = true; connection.disconnect('done'); },
    };
  },

  async stanza() {
    const { createClient } = await import(pkg);
    const where = version.startsWith('11.') ? { transport: 'websocket', wsURL: url } : { transports: { websocket: url }, autoReconnect: false };
    const client = createClient({ jid: `${user}@${domain}`, password, resource: 'stanza', ...where });
    let leaving = false;
    client.on('message', (m) => received(m.body));
    client.on('session:started', () => { client.sendPresence(); tell('online', client.jid, 'new'); });
    client.on('stream:management:resumed', () => tell('online', client.jid, 'resumed'));
    client.on('disconnected', () => tell(leaving ? 'closed' : 'lost'));
    return {
      connect() { client.connect(); },
      say(to, body) { client.sendMessage({ to, body, type: 'chat' }); },
      close() { leaving = true; client.disconnect(); },
    };
  },

  async xmppjs() {
    const { client, xml } = await import(pkg);
    const c = client({ service: url, domain, username: user, password, resource: 'xmppjs', timeout: 10000 });
    c.reconnect.stop(); // it comes back when it is told to
    let leaving = false, before = false;
    c.on('error', (error) => console.error(error));
    c.on('stanza', (s) => { if (s.is('message')) received(s.getChildText('body')); });
    c.on('online', async (jid) => {
      before = true;
      // The library sets its count of stanzas to zero a moment after <enabled/>: too late for those that come with it.
      while (!c.streamManagement.enabled) await new Promise(setImmediate);
      await c.send(xml('presence'));
      tell('online', jid, 'new');
    });
    c.streamManagement.on('resumed', () => tell('online', c.jid, 'resumed'));
    c.on('disconnect', () => tell(leaving ? 'closed' : 'lost'));
    return {
      connect() { return before ? c.reconnect.reconnect() : c.start(); },
      say(to, body) { return c.send(xml('message', { to, type: 'chat' }, xml('body', {}, body))); },
      close() { leaving = true; return c.stop(); },
    };
  },
};

const { name, version } = JSON.parse(readFileSync(new URL(`node_modules/${pkg}/package.json`, import.meta.url)));
const library = await libraries[{ 'strophe.js': 'strophe', stanza: 'stanza', '@xmpp/client': 'xmppjs' }[name]]();
tell('version', version);
for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...args] = line.split(' ');
  try {
    if (command === 'say') await library.say(args[0], Buffer.from(args[1], 'base64').toString());
    else await library[command]();
  } catch (error) {
    tell('failed', error);
  }
}
process.exit(0);
