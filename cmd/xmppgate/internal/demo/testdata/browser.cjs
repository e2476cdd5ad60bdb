// Drives the page of the demo in a browser: node browser.cjs ALICE-URL BOB-URL AWAY-URL [DIRECTORY]
// The URLs are the links that a demo prints; that of the third has a gateway at
// ws://127.0.0.1:1/, where nobody listens. Prints what works, exits 1 at the
// first thing that does not. Screenshots go to the directory.
const { chromium } = require('playwright-core');
const assert = require('node:assert');

const [alicePage, bobPage, awayPage, pictures] = process.argv.slice(2);
const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const desktop = { viewport: { width: 1180, height: 720 } };
const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const keyboard = 340; // what is left less of the height when a phone shows its keyboard

let browser;
const problems = []; // what a console or a page complains about, such as the content policy

async function open(url, options, prepare = () => {}) {
  const page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(15_000);
  page.on('console', (m) => m.type() === 'error' && problems.push(m.text()));
  page.on('pageerror', (e) => problems.push(e.message));
  await prepare(page);
  await page.goto(url);
  return page;
}
const withoutPassword = (url) => { const u = new URL(url); u.searchParams.delete('password'); return u.href; };
const state = (page, name) => page.waitForSelector(`body[data-state=${name}]`);
const connect = (page) => page.getByRole('button', { name: 'Connect', exact: true }).click();
const alert = (page, text) => page.getByRole('alert').getByText(text).waitFor();
async function say(page, text) {
  await page.getByLabel('Message', { exact: true }).fill(text);
  await page.getByLabel('Message', { exact: true }).press('Enter');
}
const sees = (page, text, who = 'theirs') => page.locator(`#log .${who} p`).getByText(text, { exact: true }).waitFor();
const count = (page, text, who = 'theirs') => page.locator(`#log .${who} p`).getByText(text, { exact: true }).count();
const atEnd = (page, list) => page.waitForFunction((id) => {
  const e = document.getElementById(id);
  return e.clientHeight && e.scrollHeight > e.clientHeight && e.scrollHeight - e.scrollTop - e.clientHeight < 2;
}, list);
const picture = (page, name) => pictures && page.screenshot({ path: `${pictures}/${name}.png` });
const done = (what) => console.log('ok  ', what);

// layout holds the page as it is now against what fingers and eyes need.
async function layout(page, name) {
  await picture(page, name);
  const wrong = await page.evaluate(() => {
    const wrong = [];
    if (document.documentElement.scrollWidth > innerWidth) wrong.push('scrolls sideways');
    const shown = (e) => e.checkVisibility() && e.getBoundingClientRect().width > 1;
    for (const e of [...document.querySelectorAll('button, input, summary')].filter(shown)) {
      const { width, height } = e.getBoundingClientRect();
      if (width < 44 || height < 44) wrong.push(`${e.id || e.textContent.trim()}: too small to touch`);
      if (!e.labels?.length && !e.textContent.trim() && !e.ariaLabel) wrong.push(`${e.id}: no accessible name`);
    }

    // WCAG 2.2: contrast as in 1.4.3 (text) and 1.4.11 (borders).
    const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
    const luminance = ({ rgb }) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const contrast = (a, b) => { const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05); };
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c; } return { rgb: [255, 255, 255] }; };
    let borders = 0, texts = 0;
    for (const e of [...document.body.querySelectorAll('*')].filter(shown)) {
      const style = getComputedStyle(e), label = e.id || e.className || e.tagName;
      for (const side of ['Top', 'Right', 'Bottom', 'Left']) {
        if (parseFloat(style[`border${side}Width`]) === 0 || style[`border${side}Style`] === 'none') continue;
        borders++;
        const color = parse(style[`border${side}Color`]);
        const worst = Math.min(contrast(color, behind(e.parentElement)), e.matches('.primary') ? 21 : contrast(color, behind(e)));
        if (color.a < 1 || worst < 3) wrong.push(`${label}: border at ${worst.toFixed(2)}:1`);
      }
      if ([...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim())) {
        texts++;
        const ratio = contrast(parse(style.color), behind(e));
        if (ratio < 4.5) wrong.push(`${label}: text at ${ratio.toFixed(2)}:1`);
      }
    }
    if (borders < 8 || texts < 4) wrong.push(`looked at ${borders} borders and ${texts} texts only`);
    return [...new Set(wrong)];
  });
  assert.deepEqual(wrong, [], `${name}: ${wrong.join('; ')}`);
}

async function main() {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: flags });

  for (const colorScheme of ['light', 'dark']) {
    const form = await open(withoutPassword(alicePage), { ...desktop, colorScheme });
    await state(form, 'offline');
    assert.ok(!new URL(form.url()).searchParams.has('password'));
    await layout(form, `login-${colorScheme}`);
    await form.setViewportSize(phone.viewport);
    await layout(form, `login-phone-${colorScheme}`);
    await form.context().close();
  }
  const alice = await open(alicePage, desktop);
  const bob = await open(bobPage, { ...phone, colorScheme: 'dark' });
  await state(alice, 'online');
  await state(bob, 'online');
  await alice.locator('.bar').getByText('alice@localhost', { exact: true }).waitFor();
  await bob.locator('.bar').getByText('bob@localhost', { exact: true }).waitFor();
  done('the links log in at once; the bar says who is logged in');

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

  const acknowledgement = /^<[ra] /;
  const rows = () => alice.locator('#wire > li:not(.fold) > code').allInnerTexts();
  assert.deepEqual((await rows()).filter((text) => acknowledgement.test(text)), []);
  const fold = alice.locator('#wire > .fold').last();
  assert.match(await fold.locator('summary').innerText(), /^Acknowledgements: [1-9]/);
  assert.equal(await fold.locator('code').first().isVisible(), false);
  await fold.locator('summary').click();
  assert.match(await fold.locator('code').first().innerText(), acknowledgement);
  await fold.locator('summary').click();
  done('<r/> and <a/> are folded');

  const tab = await alice.context().newPage();
  await tab.goto(alicePage);
  await state(tab, 'online');
  await say(alice, 'from the first tab');
  await sees(bob, 'from the first tab');
  await sees(tab, 'from the first tab', 'mine');
  await say(tab, 'from the second tab');
  await sees(alice, 'from the second tab', 'mine');
  await say(bob, 'to both');
  await sees(alice, 'to both');
  await sees(tab, 'to both');
  await say(alice, 'last'); // after it nothing is under way any more
  await sees(tab, 'last', 'mine');
  await sees(bob, 'last');
  for (const page of [alice, tab]) {
    assert.deepEqual(await Promise.all(['from the first tab', 'from the second tab', 'to both'].map(async (text) =>
      await count(page, text, 'mine') + await count(page, text))), [1, 1, 1]);
  }
  assert.equal(await count(bob, 'from the second tab'), 1);
  await tab.close();
  done('two tabs of one account show the same conversation');

  let inject;
  const victim = await open(alicePage, desktop, (page) => page.routeWebSocket(/xmpp-websocket/, (socket) => {
    socket.connectToServer();
    inject = (text) => socket.send(text);
  }));
  await state(victim, 'online');
  const carbon = (from, text) => `<message xmlns="jabber:client" from="${from}"><received xmlns="urn:xmpp:carbons:2"><forwarded xmlns="urn:xmpp:forward:0">`
    + `<message xmlns="jabber:client" type="chat" from="bob@localhost/x" to="alice@localhost"><body>${text}</body></message></forwarded></received></message>`;
  inject(carbon('mallory@localhost/x', 'forged'));
  inject(carbon('bob@localhost', 'forged'));
  inject(carbon('alice@localhost', 'honest'));
  await sees(victim, 'honest');
  assert.equal(await count(victim, 'forged'), 0);
  await victim.context().close();
  done('a copy from anybody but the own account is ignored');

  await bob.evaluate(() => Object.defineProperty(document, 'hidden', { value: true, configurable: true }));
  await say(alice, 'Anyone there?');
  await bob.waitForFunction(() => document.title.startsWith('(1) '));
  await bob.evaluate(() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); });
  assert.doesNotMatch(await bob.title(), /^\(/);
  done('unread messages in the title');

  for (let n = 1; n <= 25; n++) await say(alice, `line ${n} of a long conversation`);
  await sees(bob, 'line 25 of a long conversation');
  await atEnd(bob, 'log');
  const { width, height } = phone.viewport;
  await bob.setViewportSize({ width, height: height - keyboard });
  await atEnd(bob, 'log');
  await picture(bob, 'phone-keyboard');
  await bob.setViewportSize({ width, height });
  await atEnd(bob, 'log');
  await bob.evaluate(() => { document.getElementById('log').scrollTop = 0; });
  await bob.waitForTimeout(100); // the scroll event comes with the next frame
  await bob.setViewportSize({ width, height: height - keyboard });
  await say(alice, 'you have scrolled back');
  await sees(bob, 'you have scrolled back');
  assert.equal(await bob.evaluate(() => document.getElementById('log').scrollTop), 0);
  await bob.setViewportSize({ width, height });
  done('the end of the list stays in sight when the keyboard comes; who scrolled back is left alone');

  await bob.getByRole('button', { name: 'Frames' }).click();
  await atEnd(bob, 'wire');
  await say(alice, 'a frame for Bob');
  await bob.locator('#wire code').getByText('a frame for Bob').waitFor();
  await atEnd(bob, 'wire');
  await layout(bob, 'phone-frames-dark');
  done('frames open at the newest and follow');

  await bob.getByRole('button', { name: 'Cut connection' }).click();
  await state(bob, 'reconnecting');
  await say(alice, 'said while you were away');
  await state(bob, 'online');
  await bob.getByText('session resumed').first().waitFor(); // with the frames in front of the messages
  assert.ok(await bob.locator('#wire .closed').getByText('Close 4000').isVisible());
  await atEnd(bob, 'wire');
  await picture(bob, 'phone-resumed');
  await bob.getByRole('button', { name: 'Close', exact: true }).click();
  await sees(bob, 'said while you were away');
  assert.match(await bob.locator('#log').innerText(), /session resumed/);
  assert.equal(await count(bob, 'said while you were away'), 1);
  await say(bob, 'I was in a tunnel.');
  await sees(alice, 'I was in a tunnel.');
  done('a cut connection comes back and resumes the session, which a phone shows');

  for (const colorScheme of ['light', 'dark']) {
    for (const [page, name] of [[alice, 'desktop'], [bob, 'phone']]) {
      await page.emulateMedia({ colorScheme });
      await layout(page, `${name}-${colorScheme}`);
    }
  }
  done('layout: no sideways scrolling, large targets, all named; borders at 3:1, text at 4.5:1');

  for (let n = 0; n < 2; n++) {
    await alice.getByRole('button', { name: 'Log out' }).click();
    await state(alice, 'offline');
    assert.equal(await alice.locator('#problem').textContent(), '');
    assert.equal(await alice.getByText('alice@localhost', { exact: true }).isVisible(), false);
    assert.match(await alice.locator('#wire li.down').last().innerText(), /<close /);
    assert.match(await alice.locator('#wire > li').last().innerText(), /Close 1000\s+closed normally/);
    await connect(alice);
    await state(alice, 'online');
  }
  await alice.getByRole('button', { name: 'Log out' }).click();
  await alice.getByLabel('Password').fill('wrong');
  await connect(alice);
  await alert(alice, /^The address or the password is wrong$/);
  await layout(alice, 'refused');
  await alice.getByLabel('Password').fill('secret');
  await alice.getByLabel('Chat with').fill('nobody@localhost');
  await connect(alice);
  await state(alice, 'online');
  await say(alice, 'Is anybody there?');
  await alice.locator('#log').getByText('Not delivered to nobody@localhost: there is nobody by that address').waitFor();
  await alice.getByRole('button', { name: 'Log out' }).click();
  await alice.getByLabel('Your address').fill('alice@elsewhere.example');
  await connect(alice);
  await alert(alice, /^The server does not serve the domain of this address/);
  done('log out and back in; words for what went wrong');

  const away = await open(awayPage, phone);
  await away.getByLabel('Password').fill('secret');
  await connect(away);
  await alert(away, 'No connection to the gateway at ws://127.0.0.1:1/: is it running?');
  assert.match(await away.locator('#wire').textContent(), /Close 1006lost without a goodbye/);
  assert.match(problems.splice(0).join(), /WebSocket connection to 'ws:\/\/127\.0\.0\.1:1\/' failed/);
  done('a gateway that is not there');

  const plain = await open(bobPage, desktop, (page) =>
    page.addInitScript(() => Object.defineProperty(crypto, 'subtle', { value: undefined }))); // as over http from another machine
  await state(plain, 'online');
  assert.match(await plain.locator('#wire').innerText(), /mechanism="PLAIN">•••</);
  done('PLAIN where the browser has no WebCrypto');

  assert.deepEqual(problems, []);
}

main().then(() => browser.close(), async (error) => {
  console.error('FAIL', error.message, problems);
  await browser?.close();
  process.exit(1);
});
