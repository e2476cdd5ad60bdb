// Chromium, and a web site with the pages of these tests and the clients themselves.
import { createServer } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = fileURLToPath(new URL('.', import.meta.url));
const types = { '.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json', '.woff2': 'font/woff2' };
const packages = { '/converse/': 'node_modules/converse.js/dist', '/strophe/': 'node_modules/strophe.js/dist' };

export function listen(server) {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

// Serves the packages, and a page at all other paths. Returns its URL.
export async function serve(page) {
  const server = await listen(createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const prefix = Object.keys(packages).find((p) => pathname.startsWith(p));
    const file = prefix ? join(here, packages[prefix], normalize(pathname.slice(prefix.length - 1))) : join(here, page);
    try {
      const body = await readFile(file);
      response.writeHead(200, { 'content-type': types[extname(file)] ?? 'application/octet-stream' }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  }));
  return `http://127.0.0.1:${server.address().port}/`;
}

// Runs f with a browser, which leaves nothing behind.
export async function withBrowser(f, ...args) {
  const profile = await mkdtemp(join(tmpdir(), 'xmppgate-e2e-chromium-'));
  let browser;
  try {
    browser = await chromium.launch({
      executablePath: '/usr/bin/chromium',
      headless: true,
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', ...args],
      env: { ...process.env, HOME: profile, XDG_CONFIG_HOME: profile, XDG_CACHE_HOME: profile },
    });
    return await f(browser);
  } finally {
    await browser?.close();
    await rm(profile, { recursive: true, force: true });
  }
}
