// Converse.js in Chromium reads a roster that is one element of a megabyte, and a page of an archive of 2 MiB.
//
// Its views and its stores are not made for so much, whatever server it talks to: it asks for the vCard of each contact that
// it shows, and with each contact it stores the names of all others. So the list of contacts is not shown, and what it
// remembers of them stays in memory.
import { serve, withBrowser } from './browser.mjs';
import { alice, bob, domain, equal, fail, note, password, step, url } from './lib.mjs';

const contacts = 8000, messages = 50, size = 40 << 10;

try {
  await withBrowser(async (browser) => {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(60000);
    page.on('pageerror', (error) => note('error', error));
    page.on('websocket', (socket) => {
      socket.on('framesent', ({ payload }) => note('>', payload));
      socket.on('framereceived', ({ payload }) => note('<', `${payload.length} ${payload}`));
    });
    const settings = JSON.stringify({ persistent_store: 'IndexedDB', blacklisted_plugins: ['converse-omemo', 'converse-rosterview', 'converse-controlbox', 'converse-vcard'], archived_messages_page_size: messages });
    const query = new URLSearchParams({ url, jid: `${alice}@${domain}`, password, settings, unsaved: 'roster presences' });
    await page.goto(`${await serve('converse.html')}?${query}`);
    await page.waitForFunction(() => window.api?.connection.connected());
    step('login');

    await page.evaluate(() => window.api.waitUntil('rosterContactsFetched').then(() => {}));
    const jids = await page.evaluate(() => window.state.roster.map((contact) => contact.get('jid')));
    equal(jids.length, contacts, 'contacts');
    equal(new Set(jids).size, contacts, 'different contacts');
    step('roster');

    const partner = `${bob}@${domain}`;
    await page.evaluate((jid) => window.api.chats.open(jid, {}, true).then(() => {}), partner);
    // What the other one's server answers to receipts is a message of another type.
    const bodies = await (await page.waitForFunction(([jid, n]) => {
      const found = window.state.chatboxes.get(jid).messages.filter((m) => m.get('type') === 'chat').map((m) => m.get('body').length);
      return found.length >= n && found;
    }, [partner, messages])).jsonValue();
    equal(bodies, Array(messages).fill(size), 'archive');
    step('archive');
  });
  process.exit(0);
} catch (error) {
  fail(error);
}
