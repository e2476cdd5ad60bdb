// Drives the page of the demo in two browsers: node browser.cjs ALICE-URL BOB-URL [DIRECTORY]
// Prints what works, exits 1 at the first thing that does not. Screenshots go
// to the directory.
const { chromium } = require('playwright-core');
const assert = require('node:assert');

const [alicePage, bobPage, pictures] = process.argv.slice(2);
const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const desktop = { viewport: { width: 1180, height: 720 } };
const phone = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

let browser;
const problems = []; // what a console or a page complains about, such as the content policy

async function open(url, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(15_000);
  page.on('console', (m) => m.type() === 'error' && problems.push(m.text()));
  page.on('pageerror', (e) => problems.push(e.message));
  await page.goto(url);
  return page;
}
async function login(page) {
  if (!await page.getByLabel('Password').inputValue()) await page.getByLabel('Password').fill('secret');
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await state(page, 'online');
}
const state = (page, name) => page.waitForSelector(`body[data-state=${name}]`);
async function say(page, text) {
  await page.getByLabel('Message', { exact: true }).fill(text);
  await page.getByLabel('Message', { exact: true }).press('Enter');
}
const sees = (page, text) => page.locator('#log .theirs p').getByText(text, { exact: true }).waitFor();
const picture = (page, name) => pictures && page.screenshot({ path: `${pictures}/${name}.png` });
const done = (what) => console.log('ok  ', what);

async function main() {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: flags });

  const alice = await open(alicePage, desktop);
  await picture(alice, 'login');
  await login(alice);
  const bob = await open(bobPage, { ...phone, colorScheme: 'dark' });
  await picture(bob, 'phone-login');
  await login(bob);
  done('log in, twice');

  const strange = 'a <b>&amp; "quoted" \u{1F600} ]]> \u0001\\';
  await say(alice, strange);
  await sees(bob, strange.replace('\u0001', '\uFFFD'));
  await say(bob, 'Hello Alice, this is a longer line from a phone, to see how it wraps.');
  await sees(alice, 'Hello Alice, this is a longer line from a phone, to see how it wraps.');
  await alice.locator('.mine .tick[aria-label=sent]').waitFor();
  done('chat both ways; the server acknowledges');

  const frames = await alice.locator('#wire').innerText();
  assert.match(frames, /<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="localhost"/);
  assert.match(frames, /<auth [^>]*mechanism="SCRAM-SHA-256">•••<\/auth>/);
  assert.match(frames, /<challenge [^>]*>•••</);
  assert.doesNotMatch(frames, />biwsb|>Yz1i/); // base64 of "n,,n" and of "c=b"
  done('frames are shown, secrets of the login are not');

  await bob.evaluate(() => Object.defineProperty(document, 'hidden', { value: true, configurable: true }));
  await say(alice, 'Anyone there?');
  await bob.waitForFunction(() => document.title.startsWith('(1) '));
  await bob.evaluate(() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); });
  assert.doesNotMatch(await bob.title(), /^\(/);
  done('unread messages in the title');

  await bob.getByRole('button', { name: 'Frames' }).click();
  await bob.getByRole('button', { name: 'Cut connection' }).click();
  await state(bob, 'reconnecting');
  await say(alice, 'said while you were away');
  await state(bob, 'online');
  await picture(bob, 'phone-frames');
  await bob.getByRole('button', { name: 'Close' }).click();
  await sees(bob, 'said while you were away');
  assert.match(await bob.locator('#log').innerText(), /session resumed/);
  assert.equal(await bob.locator('#log .theirs').count(), 3); // nothing twice
  await say(bob, 'I was in a tunnel.');
  await sees(alice, 'I was in a tunnel.');
  done('a cut connection comes back and resumes the session');

  for (const [page, name] of [[alice, 'desktop'], [bob, 'phone']]) {
    await picture(page, name);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} scrolls sideways`);
    const small = await page.evaluate(() => [...document.querySelectorAll('button, input')]
      .map((e) => ({ name: e.id || e.textContent.trim(), size: e.getBoundingClientRect() }))
      .filter(({ size }) => size.width && (size.height < 44 || size.width < 44)).map(({ name }) => name));
    assert.deepEqual(small, [], `${name}: too small to touch`);
    const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input')]
      .filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map((e) => e.id));
    assert.deepEqual(nameless, [], `${name}: no accessible name`);
  }
  done('layout: no sideways scrolling, large targets, all named');

  await alice.getByRole('button', { name: 'Log out' }).click();
  await state(alice, 'offline');
  assert.match(await alice.locator('#wire li.down').last().innerText(), /<close /);
  await alice.getByLabel('Password').fill('wrong');
  await alice.getByRole('button', { name: 'Connect', exact: true }).click();
  await alice.getByRole('alert').getByText('Login refused: not-authorized').waitFor();
  await alice.getByLabel('Password').fill('secret');
  await login(alice);
  done('log out, a wrong password, and back in');

  const plain = await open(bobPage, desktop);
  await plain.addInitScript(() => Object.defineProperty(crypto, 'subtle', { value: undefined })); // as over http from another machine
  await plain.reload();
  await login(plain);
  assert.match(await plain.locator('#wire').innerText(), /mechanism="PLAIN">•••</);
  done('PLAIN where the browser has no WebCrypto');

  assert.deepEqual(problems, []);
}

main().then(() => browser.close(), async (error) => {
  console.error('FAIL', error.message, problems);
  await browser?.close();
  process.exit(1);
});
