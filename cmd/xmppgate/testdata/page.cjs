// Drives the status page in a browser: node page.cjs URL TOKEN [DIRECTORY]
// Prints what works, exits 1 at the first thing that does not. Screenshots go to the
// directory.
const { chromium } = require('playwright-core');
const assert = require('node:assert');

const [url, token, pictures] = process.argv.slice(2);
const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const desktop = { viewport: { width: 1280, height: 900 } };
const phone = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

let browser;
const problems = []; // what a console or a page complains about, such as the content policy
const elsewhere = []; // requests that leave the gateway

async function open(path, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(15_000);
  page.on('console', (m) => m.type() === 'error' && problems.push(m.text()));
  page.on('pageerror', (e) => problems.push(e.message));
  page.on('request', (r) => new URL(r.url()).origin !== new URL(url).origin && elsewhere.push(r.url()));
  await page.goto(new URL(path, url).href);
  return page;
}
const picture = (page, name, whole = true) => pictures && page.screenshot({ path: `${pictures}/${name}.png`, fullPage: whole });
const done = (what) => console.log('ok  ', what);
const field = (page, name) => page.locator(`.filters [name=${name}]`);
const rows = (page) => page.locator('#sessions tbody tr');

// layout holds the page as it is now against what fingers and eyes need.
async function layout(page, name, touch) {
  await picture(page, name);
  const wrong = await page.evaluate(([touch, width]) => {
    const wrong = [];
    // innerWidth of a phone grows with what does not fit.
    if (Math.max(innerWidth, document.documentElement.scrollWidth) > width) {
      const wide = [...document.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > width + 1);
      wrong.push(`scrolls sideways: ${wide.slice(-3).map((e) => e.outerHTML.slice(0, 120)).join(' ')}`);
    }
    const shown = (e) => e.checkVisibility() && e.getBoundingClientRect().width > 1 && e.getBoundingClientRect().right > 0;
    for (const e of [...document.querySelectorAll('button, input, select, summary, svg')].filter(shown)) {
      const { height } = e.getBoundingClientRect();
      if (touch && height < 44 && !e.matches('svg')) wrong.push(`${e.outerHTML.slice(0, 80)}: too small to touch`);
      if (!e.labels?.length && !e.textContent.trim() && !e.ariaLabel) wrong.push(`${e.outerHTML.slice(0, 80)}: no accessible name`);
    }
    // WCAG 2.2: contrast as in 1.4.3 (text) and 1.4.11 (borders of controls).
    const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
    const luminance = ({ rgb }) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const contrast = (a, b) => { const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05); };
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c; } return { rgb: [255, 255, 255] }; };
    let texts = 0;
    for (const e of [...document.body.querySelectorAll('*')].filter(shown)) {
      const style = getComputedStyle(e);
      if (e.matches('input, select, button, .button')) {
        const ratio = contrast(parse(style.borderTopColor), behind(e.parentElement));
        if (ratio < 3) wrong.push(`${e.outerHTML.slice(0, 60)}: border at ${ratio.toFixed(2)}:1`);
      }
      if ([...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim())) {
        texts++;
        const ratio = contrast(parse(style.color), behind(e));
        if (ratio < 4.5) wrong.push(`${e.outerHTML.slice(0, 60)}: text at ${ratio.toFixed(2)}:1`);
      }
    }
    if (texts < 20) wrong.push(`looked at ${texts} texts only`);
    const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
    if (new Set(ids).size !== ids.length) wrong.push(`ids twice: ${ids}`);
    return [...new Set(wrong)];
  }, [touch, page.viewportSize().width]);
  assert.deepEqual(wrong, [], `${name}: ${wrong.join('\n')}`);
}

async function main() {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: flags });

  const page = await open('/', desktop);
  await page.locator('#state').getByText('ready', { exact: true }).waitFor();
  await page.locator('#totals li').getByText('Live sessions').waitFor();
  await page.waitForFunction(() => document.querySelectorAll('#totals polyline').length > 5, null, { timeout: 60_000 });
  assert.equal(await rows(page).count(), 23);
  await page.locator('#ended').getByText('bad-xml').waitFor();
  await page.locator('#endings').getByText('client-lost').waitFor();
  assert.equal(await page.locator('#servers li').count(), 1);
  done('totals with lines that grow by themselves, sessions, endings, servers');

  const hostile = '<img src=x onerror=document.title="owned">';
  await page.locator('#sessions').getByText(hostile, { exact: true }).waitFor();
  assert.equal(await page.locator('img').count(), 0);
  assert.equal(await page.title(), 'xmppgate');
  done('what a client has named is text');

  await page.getByRole('link', { name: 'Rate', exact: true }).click();
  await page.waitForURL(/sort=rate/);
  assert.match(await rows(page).first().innerText(), /192\.0\.2\.99/);
  assert.equal(await page.locator('th[aria-sort=descending]').innerText(), 'Rate');
  await page.waitForFunction(() => /[1-9][\d.]*\s[KM]iB\/s/.test(document.querySelector('#sessions tbody tr').innerText));
  await field(page, 'network').fill('198.51.100.0/24');
  await page.keyboard.press('Enter');
  await page.waitForURL(/network=198/);
  assert.equal(await rows(page).count(), 1);
  assert.match(await page.locator('#sessions p').innerText(), /^1 of 1 live/);
  await page.getByRole('link', { name: 'Reset' }).click();
  await page.waitForURL((u) => !u.search);
  await field(page, 'group').selectOption('domain');
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.locator('#sessions').getByRole('link', { name: 'example.org' }).click();
  await page.waitForURL(/domain=example.org/);
  assert.equal(await rows(page).count(), 21);
  await page.goto(new URL('/?state=closed&ending=bad-xml', url).href);
  assert.equal(await rows(page).count(), 1);
  assert.match(await rows(page).innerText(), /203\.0\.113\.9.*example\.net.*bad-xml/s);
  await layout(page, 'closed', false);
  done('sorting, filters, groups, those that ended lately');

  await rows(page).getByRole('link').first().click();
  await page.getByRole('heading', { name: /^Session \d+$/ }).waitFor();
  await page.locator('.timeline svg[aria-label*="ended after"]').waitFor();
  await page.locator('.timeline svg[aria-label*="server connected after"][aria-label*="stream open after"]').waitFor();
  await page.goto(new URL('/?sort=rate', url).href);
  await rows(page).getByRole('link').first().click();
  await page.waitForFunction(() => document.querySelector('#one polyline')?.getAttribute('points').split(' ').length > 2, null, { timeout: 30_000 });
  await layout(page, 'one', false);
  done('one session with its time line, which grows while one looks');

  // The keyboard reaches everything, and a refresh does not take the focus away.
  await page.goto(url);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  const link = page.locator('#sessions thead a').first();
  await link.focus();
  assert.notEqual(await link.evaluate((e) => getComputedStyle(e).outlineStyle), 'none');
  const moment = await page.locator('#moment').innerText();
  await page.waitForFunction((before) => document.getElementById('moment').innerText !== before, moment);
  await page.waitForFunction(() => document.activeElement.closest('#sessions thead'));
  await field(page, 'domain').fill('half a wor');
  const again = await page.locator('#moment').innerText();
  await page.waitForFunction((before) => document.getElementById('moment').innerText !== before, again);
  assert.equal(await field(page, 'domain').inputValue(), 'half a wor');
  await page.getByRole('button', { name: 'Pause' }).click();
  const stopped = await page.locator('#moment').innerText();
  await page.waitForTimeout(6000);
  assert.equal(await page.locator('#moment').innerText(), stopped);
  done('keyboard, focus and forms survive a refresh; it can be paused');

  for (const colorScheme of ['light', 'dark']) {
    const wide = await open('/', { ...desktop, colorScheme });
    await wide.locator('details').last().evaluate((e) => { e.open = true; });
    await layout(wide, `desktop-${colorScheme}`, false);
    await wide.context().close();
    for (const path of ['/', '/?group=network', '/?state=closed', '/?id=1', '/?sort=red']) {
      const small = await open(path, { ...phone, colorScheme });
      if (path !== '/?sort=red') await layout(small, `phone-${colorScheme}${path.replace(/\W+/g, '-')}`, true);
      else problems.splice(0); // the browser reports the status 400
      await small.context().close();
    }
  }
  await picture(await open('/', { ...desktop, colorScheme: 'light' }), 'status', false); // the one in docs
  done('layout: desktop and phone, light and dark: nothing sideways, contrast, targets, names');

  const plain = await open('/', { ...desktop, javaScriptEnabled: false });
  assert.equal(await rows(plain).count(), 23);
  await field(plain, 'network').fill('2001:db8::/32');
  await plain.getByRole('button', { name: 'Apply' }).click();
  await plain.waitForURL(/network=2001/);
  assert.equal(await rows(plain).count(), 1);
  const id = await rows(plain).getByRole('link').first().innerText();
  await rows(plain).getByRole('link').first().click();
  await plain.locator('summary').click();
  await plain.getByLabel('Token').fill('0123456789abcdeX');
  await plain.getByRole('button', { name: 'End it' }).click();
  await plain.getByRole('alert').getByText('the token is not the one').waitFor();
  problems.splice(0); // the browser reports the status 401
  await plain.goBack();
  if (!await plain.locator('details').evaluate((e) => e.open)) await plain.locator('summary').click();
  await plain.getByLabel('Token').fill(token);
  await plain.getByRole('button', { name: 'End it' }).click();
  await plain.waitForURL(new URL(`/?id=${id}`, url).href);
  while (!await plain.locator('#one').getByText('operator-ended').count()) await plain.reload(); // its client is being told
  done('without JavaScript: filters, one session, and its end, with the right token only');

  await page.goto(new URL('/?network=192.0.2.0/28', url).href);
  assert.equal(await rows(page).count(), 15);
  await page.getByText('End the sessions of network 192.0.2.0/28').click();
  await page.getByLabel('Token').first().fill(token);
  await page.getByRole('button', { name: 'End them' }).click();
  await page.waitForURL(/state=closed/);
  assert.ok(!page.url().includes(token));
  await page.waitForFunction(() => document.querySelectorAll('#sessions tbody tr').length === 15);
  await page.goto(url);
  await page.getByText('Drain the gateway').click();
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Drain', exact: true }).click();
  await page.locator('#state').getByText(/^draining: /).waitFor();
  done('the end of a network, and a drain');

  assert.deepEqual(problems, []);
  assert.deepEqual(elsewhere, []);
}

main().then(() => browser.close(), async (error) => {
  console.error('FAIL', error.message, problems, elsewhere);
  await browser?.close();
  process.exit(1);
});
