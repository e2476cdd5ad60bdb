// strophe.js and Converse.js in Chromium know a JID and a password, and nothing else. The URL is that of the HTTPS server of
// the domain, at a port of this machine.
import { serve, withBrowser } from './browser.mjs';
import { alice, bob, domain, equal, fail, password, step, url } from './lib.mjs';

const web = new URL(url);
try {
  await withBrowser(async (browser) => {
    const open = async (site) => {
      const page = await (await browser.newContext()).newPage();
      page.setDefaultTimeout(30000);
      const sockets = [];
      page.on('websocket', (socket) => sockets.push(socket.url()));
      await page.goto(site);
      return { page, sockets };
    };

    const strophe = await open(await serve('strophe.html'));
    await strophe.page.waitForFunction(() => window.connect);
    await strophe.page.evaluate(([jid, password]) => window.connect(jid, password).then(() => {}), [`${alice}@${domain}`, password]);
    equal(strophe.sockets, [`wss://${domain}/xmpp-websocket`], 'WebSockets of strophe.js');
    step('strophe');

    const query = new URLSearchParams({ jid: `${bob}@${domain}`, password });
    const converse = await open(`${await serve('converse.html')}?${query}`);
    await converse.page.waitForFunction(() => window.api?.connection.connected());
    equal(converse.sockets, [`wss://${domain}/xmpp-websocket`], 'WebSockets of Converse.js');
    step('converse');
  }, `--host-resolver-rules=MAP ${domain} ${web.host}`, '--ignore-certificate-errors');
  process.exit(0);
} catch (error) {
  fail(error);
}
