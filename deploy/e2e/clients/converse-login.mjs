// Converse.js in Chromium logs in, fetches its roster and a conversation, and leaves.
import { serve, withBrowser } from './browser.mjs';
import { alice, bob, domain, fail, note, password, step, url } from './lib.mjs';

try {
  await withBrowser(async (browser) => {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(60000);
    page.on('pageerror', (error) => note('error', error));
    let last = Date.now();
    page.on('websocket', (socket) => {
      for (const event of ['framesent', 'framereceived']) {
        socket.on(event, ({ payload }) => { last = Date.now(); note(event, payload); });
      }
    });
    const query = new URLSearchParams({ url, jid: `${alice}@${domain}`, password });
    await page.goto(`${await serve('converse.html')}?${query}`);
    await page.waitForFunction(() => window.api?.connection.connected());
    await page.evaluate(() => window.api.waitUntil('rosterContactsFetched').then(() => {}));
    await page.evaluate((jid) => window.api.chats.open(jid, {}, true).then(() => {}), `${bob}@${domain}`);
    while (Date.now() - last < 2000) await new Promise((resolve) => setTimeout(resolve, 100));
    step('login');
    await page.evaluate(() => window.api.connection.get?.().disconnect?.() ?? window.api.user.logout());
    await new Promise((resolve) => setTimeout(resolve, 500));
  });
  process.exit(0);
} catch (error) {
  fail(error);
}
