// Opens the gateway's own page at each URL, and prints what it says as a line of JSON. A URL that is followed by "offline"
// is tested once more after the network is gone, "domain=NAME" once more for another domain.
import { fail } from './lib.mjs';
import { withBrowser } from './browser.mjs';

// The brightness of the background of a picture and that of what differs most from it, 0 to 255. The page itself must not
// load pictures, so another one does.
async function brightness(page, png) {
  const blank = await page.context().newPage();
  try {
    return await blank.evaluate(async (base64) => {
      const image = new Image();
      image.src = `data:image/png;base64,${base64}`;
      await image.decode();
      const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0);
      const { data } = context.getImageData(0, 0, image.width, image.height);
      const grey = (i) => Math.round((data[i] + data[i + 1] + data[i + 2]) / 3);
      const background = grey(0);
      let farthest = background;
      for (let i = 0; i < data.length; i += 4) {
        if (Math.abs(grey(i) - background) > Math.abs(farthest - background)) farthest = grey(i);
      }
      return [background, farthest];
    }, png.toString('base64'));
  } finally {
    await blank.close();
  }
}

async function visit(browser, url, then) {
  const context = await browser.newContext({ viewport: { width: 360, height: 740 }, colorScheme: 'light' });
  const page = await context.newPage();
  const problems = [];
  page.on('console', (m) => m.type() === 'error' && problems.push(m.text()));
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('request', (r) => new URL(r.url()).host !== new URL(url).host && !r.url().startsWith('data:') && problems.push(`loads ${r.url()}`));
  const response = await page.goto(url);
  const result = () => page.waitForFunction(() => document.querySelector('#verdict').textContent && !document.querySelector('button').disabled, null, { timeout: 60000 });
  await result();
  const [action, name] = (then ?? '').split('=');
  if (action === 'offline') await context.setOffline(true);
  if (action === 'domain') await page.fill('#domain', name);
  if (action) {
    await page.click('button');
    await result();
  }
  const seen = await page.evaluate(() => ({
    steps: Object.fromEntries([...document.querySelectorAll('#steps li')].map((e) => [e.id, e.className])),
    texts: Object.fromEntries([...document.querySelectorAll('#steps li')].map((e) => [e.id, e.textContent])),
    state: document.querySelector('#verdict').className,
    verdict: document.querySelector('#verdict').textContent,
    tooWide: document.documentElement.scrollWidth > innerWidth,
    cookies: document.cookie,
  }));
  // Every text is on the screen, in colours that differ from what is behind it, light and dark.
  const contrast = [];
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    contrast.push(await brightness(page, await page.screenshot({ fullPage: true })));
  }
  console.log(JSON.stringify({ url, status: response.status(), ...seen, problems, contrast }));
  await context.close();
}

try {
  await withBrowser(async (browser) => {
    const args = process.argv.slice(2);
    while (args.length > 0) {
      const url = args.shift();
      await visit(browser, url, args[0]?.startsWith('http') ? undefined : args.shift());
    }
  }, '--ignore-certificate-errors');
  process.exit(0);
} catch (error) {
  fail(error);
}
