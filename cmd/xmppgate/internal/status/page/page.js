// Keeps the page up to date: it asks for the same page again and puts the new text into
// the elements of the class live. Everything else, such as a form that is being filled
// in, stays as it is. Without this script the page shows the moment when it was loaded.
'use strict';
const interval = 5000; // milliseconds
const pause = document.getElementById('pause');
let paused = false, timer = 0;

// A link keeps its place in the order of the keyboard: it is found again by its target.
function focusOf(element) {
  const active = document.activeElement;
  return element.contains(active) && active.href ? active.getAttribute('href') : null;
}

async function refresh() {
  let text;
  try {
    const answer = await fetch(location.href, { headers: { Accept: 'text/html' }, cache: 'no-store', credentials: 'same-origin' });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    text = await answer.text();
  } catch (error) {
    const state = document.getElementById('state');
    state.className = 'live state bad';
    state.textContent = `no newer figures: ${error.message}`;
    return;
  }
  const page = new DOMParser().parseFromString(text, 'text/html');
  for (const old of document.querySelectorAll('.live')) {
    const now = page.getElementById(old.id);
    if (!now || now.isEqualNode(old)) continue;
    const href = focusOf(old);
    old.className = now.className;
    old.replaceChildren(...now.childNodes);
    if (href !== null) [...old.querySelectorAll('a')].find((a) => a.getAttribute('href') === href)?.focus({ preventScroll: true });
  }
}

let running = false;
async function run() {
  if (running) return;
  clearTimeout(timer);
  running = true;
  if (!paused && !document.hidden) await refresh();
  running = false;
  timer = setTimeout(run, interval);
}

pause.hidden = false;
pause.addEventListener('click', () => {
  paused = !paused;
  pause.setAttribute('aria-pressed', paused);
  pause.textContent = paused ? 'Go on' : 'Pause';
  if (!paused) run();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !paused) run();
});
timer = setTimeout(run, interval);
