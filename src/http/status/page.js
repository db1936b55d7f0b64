'use strict';
// Draws the page from status.json, once a second. What requests asked for only ever becomes text.
// The box of a chart, and how many seconds it shows: as many as the program is old, an hour at most.
const WIDTH = 3600, HEIGHT = 64, MARGIN = 2, SPANS = [300, 900, 3600];
const at = id => document.getElementById(id);

// How numbers are written.
const known = (n, write) => n === null || n === undefined ? '–' : write(n);
const count = n => n.toLocaleString('en');
const bytes = n => {
  let unit = 0;
  while (n >= (unit ? 1023.5 : 1024)) { n /= 1024; unit++; }
  return n.toFixed(unit && n < 9.95 ? 1 : 0) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'][unit];
};
const pair = (s, big, one, small, other) => `${Math.floor(s / big)} ${one} ${Math.floor(s % big / small)} ${other}`;
const duration = s =>
  s === 0 ? '0 s'
  : s < 1e-3 ? `${(s * 1e6).toFixed(0)} µs`
  : s < 1 ? `${(s * 1e3).toFixed(s < 0.01 ? 1 : 0)} ms`
  : s < 60 ? `${s.toFixed(s < 10 ? 1 : 0)} s`
  : s < 3600 ? pair(s, 60, 'min', 1, 's')
  : s < 86400 ? pair(s, 3600, 'h', 60, 'min')
  : pair(s, 86400, 'd', 3600, 'h');
// never claims all or nothing when it is not
const percent = (part, whole) => {
  if (whole <= 0) return '–';
  const share = 100 * part / whole;
  return Math.max(Math.min(share, part < whole ? 99.9 : 100), part > 0 ? 0.1 : 0).toFixed(1) + ' %';
};
// without what could reorder or hide the text around it
const clean = text => text.replace(/[\p{Cc}\u200b-\u200f\u202a-\u202e\u2066-\u2069]/gu, '\ufffd');

// The next of 1, 2, 5, 10, 20, … that is not less, so that scales do not jump about.
const nice = v => {
  const decade = 10 ** Math.floor(Math.log10(Math.max(v, 1)));
  return [1, 2, 5, 10].map(f => f * decade).find(top => top >= v) ?? v;
};
const niceBytes = v => {
  let unit = 1;
  while (v / unit >= 1000) unit *= 1024;
  return nice(v / unit) * unit;
};

// What a chart shows of the time between the samples i - 1 and i; null where there is nothing to show.
const gauge = name => (d, i) => d[name][i];
const perSecond = (name, unit = 1) => (d, i) => {
  const seconds = (d.millis[i] - d.millis[i - 1]) / 1000;
  return seconds > 0 ? (d[name][i] - d[name][i - 1]) / unit / seconds : null;
};
const hitRate = (all, hits) => (d, i) => {
  const before = Math.max(0, i - 6), asked = d[all][i] - d[all][before];
  return asked > 0 ? 100 * Math.min(1, (d[hits][i] - d[hits][before]) / asked) : null;
};

const CARDS = {
  hits: {
    title: 'Hit rate', top: () => 100, unit: v => `${v.toFixed(0)} %`,
    lines: {
      build: hitRate('gets', 'get_hits'),
      modules: hitRate('modules', 'module_hits'),
      proxied: hitRate('proxied', 'proxied_hits'),
    },
  },
  bytes: {
    title: 'Bytes', top: niceBytes, unit: v => `${bytes(v)}/s`,
    lines: { served: perSecond('served_bytes'), stored: perSecond('stored_bytes') },
  },
  wait: {
    title: 'Waiting on the bucket', top: nice, unit: v => `${duration(v / 1e3)}/s`,
    lines: { wait: perSecond('wait_nanos', 1e6) },
  },
  queue: { title: 'Upload queue', top: nice, unit: count, lines: { queue: gauge('queue') } },
  breaker: {
    title: 'Bucket', top: () => 1, unit: () => 'left alone', lines: { breaker: (d, i) => d.left_alone[i] || null },
    says: some => some.length ? `left alone in ${some.length} samples` : 'never left alone',
  },
  cache: {
    // what is not looked at yet is no size
    title: 'Cache size', top: niceBytes, unit: bytes,
    lines: { cache: (d, i) => d.cache_bytes[i] },
  },
};

const OPERATIONS = {
  get: 'Get', put: 'Put', bucket_request: 'Bucket request', upstream_request: 'Upstream request',
  http_request: 'HTTP request',
};

function text(id, value, mood) {
  const element = at(id);
  value = clean(value);
  if (element.textContent !== value) element.textContent = value;
  if (mood) element.dataset.mood = mood;
}

function make(name, className, value, parent) {
  const element = document.createElementNS(parent.namespaceURI, name);
  element.setAttribute('class', className);
  element.textContent = clean(value);
  parent.append(element);
  return element;
}

function addCards() {
  for (const [id, { title, lines }] of Object.entries(CARDS)) {
    const card = at('card').content.cloneNode(true);
    const part = (selector, name) => {
      const element = card.querySelector(selector);
      element.id = `${id}-${name}`;
      return element;
    };
    const heading = part('h2', 'title');
    heading.textContent = title;
    card.querySelector('section').setAttribute('aria-labelledby', heading.id);
    part('.value', 'value');
    part('.note', 'note');
    part('.top', 'top');
    part('.axis span', 'from');
    const svg = part('svg', 'chart');
    make('path', 'area', '', svg).id = `${id}-area`;
    Object.keys(lines).forEach((name, n, all) => {
      make('path', `line${n + 1}`, '', svg).id = n ? `${id}-line${n + 1}` : `${id}-line`;
      if (all.length > 1) make('span', `key key${n + 1}`, name, heading);
    });
    at('cards').append(card);
  }
}

// A value holds from one sample to the next; a gap interrupts the line.
function steps(values, xs, top) {
  let line = '', area = '', from = null;
  values.concat(null).forEach((v, i) => {
    if (v === null) {
      if (from !== null) area += `L${xs[i]} ${HEIGHT}Z`;
      from = null;
      return;
    }
    const y = (HEIGHT - MARGIN - Math.min(1, Math.max(0, v / top)) * (HEIGHT - 2 * MARGIN)).toFixed(1);
    const step = `L${xs[i]} ${y}L${xs[i + 1]} ${y}`;
    line += from === null ? 'M' + step.slice(1) : step;
    area += (from === null ? `M${xs[i]} ${HEIGHT}` : '') + step;
    from = v;
  });
  return [line, area];
}

function charts(d) {
  const last = d.millis.length - 1;
  const age = at => (d.millis[last] - at) / 1000;
  const span = SPANS.find(seconds => seconds >= age(d.millis[0])) ?? SPANS.at(-1);
  const xs = d.millis.map(at => Math.max(0, WIDTH * (1 - age(at) / span)).toFixed(1));
  const extremes = (some, unit) =>
    some.length ? `highest ${unit(Math.max(...some))}, latest ${unit(some.at(-1))}` : 'nothing yet';
  for (const [id, { lines, top, unit, says = extremes }] of Object.entries(CARDS)) {
    const names = Object.keys(lines);
    const values = Object.values(lines).map(of => d.millis.slice(1).map((_, i) => of(d, i + 1)));
    const highest = Math.max(0, ...values.flat());
    const words = values.map((list, n) => {
      const [line, area] = steps(list, xs, top(highest));
      at(n ? `${id}-line${n + 1}` : `${id}-line`).setAttribute('d', line);
      if (n === 0) at(`${id}-area`).setAttribute('d', area);
      return (names.length > 1 ? `${names[n]}: ` : '') + says(list.filter(v => v !== null), unit);
    });
    text(`${id}-top`, highest > 0 ? unit(top(highest)) : '');
    at(`${id}-chart`).setAttribute('aria-label', `Last ${span / 60} minutes: ${words.join('; ')}.`);
    text(`${id}-from`, `${span / 60} min ago`);
  }
}

function figures(s, d) {
  const now = d.millis.length - 1, state = s.status;
  const latest = name => d[name][now];
  const sum = (names, i) => i < 0 ? 0 : names.reduce((n, name) => n + d[name][i], 0);
  const hits = ['get_hits', 'module_hits', 'proxied_hits'], all = ['gets', 'modules', 'proxied'];
  const minute = d.millis.findLastIndex(at => at <= latest('millis') - 60e3);
  const lately = percent(sum(hits, now) - sum(hits, minute), sum(all, now) - sum(all, minute));
  text('hits-value', percent(sum(hits, now), sum(all, now)));
  text('hits-note', `${count(sum(hits, now))} of ${count(sum(all, now))} requests · last minute ${lately}`);
  text('bytes-value', bytes(latest('served_bytes')));
  text('bytes-note', `served · ${bytes(latest('stored_bytes'))} stored`);
  text('wait-value', duration(latest('wait_nanos') / 1e9));
  const { requests, get_bytes: down, put_bytes: up, errors, breaker_opened: opened } = s.bucket;
  text('wait-note', `${count(requests)} bucket requests · ${bytes(down)} down · ${bytes(up)} up`);
  text('queue-value', count(latest('queue')));
  const { done, failed } = s.upload;
  text('queue-note', `${count(done)} uploaded` + (failed ? ` · ${count(failed)} put off` : ''));
  // until someone looks, nobody measures
  text('cache-value', bytes(state.cache_bytes));
  const noBucket = state.bucket_available === null;
  if (noBucket) text('breaker-value', 'no bucket', 'off');
  else if (state.bucket_available) text('breaker-value', 'in use', 'ok');
  else text('breaker-value', 'left alone', 'warn');
  const note = `${count(errors)} errors · left alone ${count(opened)} times`;
  text('breaker-note', noBucket ? 'what is stored stays on this machine' : note);
  at('breaker-chart').classList.toggle('calm', !noBucket);

  if (state.stopping) text('state', 'stopping', 'warn');
  else text('state', 'serving', 'ok');
  text('version', state.version);
  text('uptime', duration(Math.floor(state.uptime_seconds)));
  text('sessions', count(state.sessions));
  text('memory', known(state.process_resident_memory_bytes, bytes));
  text('files', known(state.process_open_fds, count) + known(state.process_max_fds, n => ` of ${count(n)}`));
  text('disk', known(state.disk_free_bytes, bytes));
  text('directory', s.page.directory);
  text('bucket', s.page.bucket ?? 'none, local only');
}

// Rows of a table, each a list of texts; drawn anew only when they change. Those that are marked
// stand out.
const shown = {};
function rows(id, list, classes, marked = []) {
  const same = JSON.stringify(list);
  if (shown[id] === same) return;
  shown[id] = same;
  at(id).replaceChildren();
  for (const [n, cells] of list.entries()) {
    const row = make('tr', '', '', at(id));
    cells.forEach((cell, i) => make('td', classes[i], cell, row));
    if (marked[n]) row.dataset.mood = 'warn';
  }
  const none = at(`no-${id}`);
  if (none) none.hidden = list.length > 0;
  at(id).parentElement.hidden = list.length === 0;
}

function tables(s) {
  const seconds = n => known(n, duration);
  const ago = n => n < 1 ? 'now' : n < 60 ? `${n} s ago` : `${duration(n)} ago`;
  const latency = Object.entries(OPERATIONS).map(([name, title]) => [title, s.latency[name]]);
  rows('latency', latency.map(([title, l]) =>
    [title, count(l.count), seconds(l.p50_seconds), seconds(l.p99_seconds)]), ['', 'n', 'n', 'n']);
  const state = s.status;
  const full = [
    ['HTTP connections', state.http_connections, state.http_connections_max, count],
    ['Waiting for upstreams', state.http_waiting, state.http_waiting_max, count],
    ['Open files', state.process_open_fds, state.process_max_fds, count],
    ['Disk', state.disk_bytes === null ? null : state.disk_bytes - state.disk_free_bytes, state.disk_bytes, bytes],
  ];
  const isFull = full.map(([, used, of]) => of > 0 && used / of >= 0.9);
  rows('full', full.map(([title, used, of, write]) => [title, known(used, write), known(of, write), percent(used, of)])
    .concat([['Upload queue', count(state.upload_waiting + state.upload_busy), '–', '–']]),
  ['', 'n', 'n', 'n'], isFull);
  const servers = s.page.upstreams.sort((a, b) => b.failing - a.failing || b.waiting - a.waiting);
  rows('upstreams', servers.map(u => [u.name, count(u.requests), count(u.errors), seconds(u.pace_seconds),
    u.waiting ? `${count(u.waiting)} for ${duration(u.waiting_seconds)}` : '–',
    u.last_error === null ? '–' : `${u.last_error} (${ago(u.error_ago_seconds)})`]),
  ['u0', 'u1 n', 'u2 n', 'u3 n', 'u4', 'u5'], servers.map(u => u.failing > 0 || u.waiting_seconds > 5));
  const words = name => name.replaceAll('_', ' ').replace(/^./, c => c.toUpperCase());
  // of counters, by their names
  const bad = /error|failed|rejected|corrupt|_bad|refused|opened|stale/;
  const errors = Object.entries(s).flatMap(([group, counters]) => Object.entries(counters)
    .filter(([name, n]) => bad.test(name) && n > 0).map(([name, n]) => [words(group), words(name), count(n)]));
  rows('errors', errors, ['', '', 'n']);
  rows('recent', s.page.recent.map(r =>
    [ago(r.ago_seconds), r.kind, r.what, r.outcome, known(r.bytes, bytes), duration(r.seconds)]), ['c0', 'c1', 'c2', 'c3', 'c4', 'c5']);
}

async function tick() {
  if (!document.hidden) {
    try {
      const s = await (await fetch('status.json', { cache: 'no-store' })).json();
      const { columns, samples } = s.page;
      // the newest is of this moment: where it is close to the one before, it stands in for that
      if (samples.length > 2 && samples.at(-1)[0] - samples.at(-2)[0] < 1000) samples.splice(-2, 1);
      const d = Object.fromEntries(columns.map((name, n) => [name, samples.map(row => row[n])]));
      figures(s, d);
      charts(d);
      tables(s);
    } catch {
      text('state', 'not answering', 'warn');
    }
  }
  setTimeout(tick, 1000);
}
addCards();
tick();
