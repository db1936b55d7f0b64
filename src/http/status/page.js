'use strict';
const at = id => document.getElementById(id);
const set = (map, apply) => {
  for (const [id, value] of Object.entries(map)) {
    const element = at(id);
    if (element) apply(element, value);
  }
};
let shown = '';
function rows(recent) {
  const text = JSON.stringify(recent);
  if (text === shown) return;
  shown = text;
  at('recent').replaceChildren(...recent.map(cells => {
    const row = document.createElement('tr');
    row.append(...cells.map((cell, i) => {
      const td = document.createElement('td');
      td.textContent = cell;
      td.className = 'c' + i;
      return td;
    }));
    return row;
  }));
  at('none').hidden = recent.length > 0;
}
async function tick() {
  if (!document.hidden) {
    try {
      const live = await (await fetch('live.json', { cache: 'no-store' })).json();
      set(live.text, (e, v) => { if (e.textContent !== v) e.textContent = v; });
      set(live.path, (e, v) => e.setAttribute('d', v));
      set(live.label, (e, v) => e.setAttribute('aria-label', v));
      set(live.mood, (e, v) => { e.dataset.mood = v; });
      rows(live.recent);
    } catch {
      at('state').textContent = 'not answering';
      at('state').dataset.mood = 'warn';
    }
  }
  setTimeout(tick, 1000);
}
tick();
