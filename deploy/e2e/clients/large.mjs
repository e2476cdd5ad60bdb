// A roster that is one element of a megabyte, and a page of an archive of 2 MiB, by the library that is named in place of the rooms.
import { alice, domain, equal, fail, muc as library, password, step, url, within } from './lib.mjs';

const contacts = 8000, messages = 50, size = 40 << 10;
const MAM = 'urn:xmpp:mam:2', RSM = 'http://jabber.org/protocol/rsm', ROSTER = 'jabber:iq:roster';

// Each library logs in and returns { roster(): JIDs, archive(): bodies, close() }.
const libraries = {
  async strophe() {
    const { $iq, Strophe } = await import('strophe.js');
    const connection = new Strophe.Connection(url);
    await new Promise((resolve, reject) => connection.connect(`${alice}@${domain}/large`, password, (status, reason) => {
      if (status === Strophe.Status.CONNECTED) resolve();
      if ([Strophe.Status.AUTHFAIL, Strophe.Status.CONNFAIL, Strophe.Status.ERROR].includes(status)) reject(new Error(`${status} ${reason}`));
    }));
    const ask = (iq) => new Promise((resolve, reject) => connection.sendIQ(iq, resolve, reject));
    return {
      async roster() {
        const answer = await ask($iq({ type: 'get' }).c('query', { xmlns: ROSTER }));
        return [...answer.getElementsByTagName('item')].map((item) => item.getAttribute('jid'));
      },
      async archive() {
        const bodies = [];
        connection.addHandler((m) => {
          for (const body of m.getElementsByTagName('body')) bodies.push(body.textContent);
          return true;
        }, null, 'message');
        await ask($iq({ type: 'set' }).c('query', { xmlns: MAM }).c('set', { xmlns: RSM }).c('max').t(String(messages)));
        return bodies;
      },
      close: () => connection.disconnect('done'),
    };
  },

  async xmppjs() {
    const { WebSocket } = await import('ws');
    globalThis.WebSocket ??= WebSocket;
    const { client, xml } = await import('@xmpp/client');
    const c = client({ service: url, domain, username: alice, password, resource: 'large', timeout: 30000 });
    c.on('error', fail);
    await c.start();
    return {
      async roster() {
        const query = await c.iqCaller.get(xml('query', ROSTER));
        return query.getChildren('item').map((item) => item.attrs.jid);
      },
      async archive() {
        const bodies = [];
        c.on('stanza', (s) => {
          const body = s.getChild('result', MAM)?.getChild('forwarded')?.getChild('message')?.getChildText('body');
          if (body) bodies.push(body);
        });
        await c.iqCaller.set(xml('query', MAM, xml('set', RSM, xml('max', {}, String(messages)))));
        return bodies;
      },
      close: () => c.stop(),
    };
  },

  async stanza() {
    const XMPP = await import('stanza');
    const c = XMPP.createClient({
      jid: `${alice}@${domain}`, password, resource: 'large', transports: { websocket: url, bosh: false }, autoReconnect: false, timeout: 30,
    });
    await new Promise((resolve, reject) => {
      c.once('session:started', resolve);
      c.once('disconnected', () => reject(new Error('disconnected')));
      c.connect();
    });
    return {
      roster: async () => (await c.getRoster()).items.map((item) => item.jid),
      archive: async () => (await c.searchHistory({ paging: { max: messages } })).results.map((r) => r.item.message.body),
      close: () => c.disconnect(),
    };
  },
};

try {
  const client = await within(libraries[library](), 'login', 30000);
  step('login');

  const jids = await within(client.roster(), 'roster', 60000);
  equal(jids.length, contacts, 'contacts');
  equal(new Set(jids).size, contacts, 'different contacts');
  step('roster');

  const bodies = await within(client.archive(), 'archive', 60000);
  equal(bodies.map((b) => b.length), Array(messages).fill(size), 'archive');
  step('archive');

  await within(Promise.resolve(client.close()), 'close');
  process.exit(0);
} catch (error) {
  fail(error);
}
