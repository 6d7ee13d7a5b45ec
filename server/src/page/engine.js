// The engine at work: what the stream of pictures says, put on the page.

import { events } from './api.js';
import { Bars, Sparkline } from './charts.js';
import { byId, duration, element, number, percent, setText } from './dom.js';
import { startLoad } from './load.js';
import { PoolView, colorOf } from './pool.js';

/** Rows of the table; an engine may have far more sequences. */
const MAX_ROWS = 100;
/** Lines of the list of preemptions. */
const MAX_EVENTS = 60;
/** Pictures over which rates are taken: about a second. */
const WINDOW = 4;
/** Time before the stream is opened again after it broke. */
const RETRY_MS = 2000;

let pool;
let charts;
let stream = null;
let isShown = false;
let isPaused = false;
let recent = [];
let previous = null;
let lastStep = null;
const rows = new Map();

/** Builds the view; nothing is asked for until it is shown. */
export function startEngine() {
  pool = new PoolView(byId('pool'), byId('pool-hover'));
  buildTiles();
  buildCharts();
  startLoad(byId('load-toggle'));
  byId('live-pause').addEventListener('click', () => {
    isPaused = !isPaused;
    byId('live-pause').setAttribute('aria-pressed', String(isPaused));
    byId('live-pause').textContent = isPaused ? 'Go on' : 'Pause';
    update();
  });
  document.addEventListener('visibilitychange', update);
  document.addEventListener('folio-key', () => {
    disconnect();
    update();
  });
  byId('sequences').addEventListener('pointerover', (event) => {
    pool.highlight(event.target.closest('tr')?.dataset.id ?? null);
  });
  byId('sequences').addEventListener('pointerleave', () => pool.highlight(null));
}

/** The view can be seen. */
export function showEngine() {
  isShown = true;
  update();
}

/** The view cannot be seen. */
export function hideEngine() {
  isShown = false;
  update();
}

/** Watches only while somebody looks: the engine then pays nothing for it. */
function update() {
  const isWatched = isShown && !isPaused && document.visibilityState === 'visible';
  if (isWatched && !stream) connect();
  if (!isWatched) disconnect();
  if (isPaused) setState('paused', 'Paused');
}

function disconnect() {
  stream?.abort();
  stream = null;
}

async function connect() {
  const own = new AbortController();
  stream = own;
  recent = [];
  previous = null;
  lastStep = null;
  try {
    setState('waiting', 'Connecting…');
    for await (const frame of events('/v1/engine/live', { signal: own.signal })) show(frame);
    setState('waiting', 'The server has ended the stream');
  } catch (error) {
    if (error.name === 'AbortError') return;
    setState('failed', error.message);
  }
  setTimeout(() => {
    if (stream === own) stream = null;
    update();
  }, RETRY_MS);
}

function setState(state, text) {
  const node = byId('live-state');
  node.dataset.state = state;
  setText(node, text);
}

function show(frame) {
  const { counts } = frame;
  recent = [...recent, frame].slice(-WINDOW - 1);
  const isBusy = counts.running + counts.waiting > 0;
  setState(isBusy ? 'busy' : 'idle', isBusy ? 'Working' : 'Idle');
  showTiles(frame);
  pool.draw(frame);
  byId('engine').dataset.known = '';
  showPoolSummary(frame.pool);
  showCharts(frame);
  showSequences(frame);
  showPreemptions(frame);
  previous = frame;
}

const TILES = [
  ['running', 'Running', 'sequences in steps'],
  ['waiting', 'Waiting', 'in the queue'],
  ['generated', 'Generated', 'tokens/s'],
  ['prefill', 'Prompts', 'tokens/s computed'],
  ['kv', 'KV cache', 'of the blocks in use'],
  ['hits', 'Prefix hits', 'of prompt tokens'],
  ['steps', 'Steps', 'per second'],
  ['preemptions', 'Preemptions', 'since the start'],
];

function buildTiles() {
  byId('tiles').append(...TILES.map(([id, name, unit]) => element('div', { className: 'tile' },
    element('dt', {}, name),
    element('dd', { id: `tile-${id}` }, '–'),
    element('dd', { className: 'unit' }, unit))));
}

function showTiles(frame) {
  const { counts, pool: blocks } = frame;
  const first = recent[0];
  const seconds = frame.time - first.time;
  const rate = (name) => (seconds > 0 ? (counts[name] - first.counts[name]) / seconds : 0);
  const values = {
    running: number(counts.running),
    waiting: number(counts.waiting),
    generated: number(Math.round(rate('generated_tokens'))),
    prefill: number(Math.round(rate('prefill_tokens'))),
    kv: percent(blocks.used / blocks.blocks),
    hits: percent(counts.prefix_hits / counts.prefix_queries),
    steps: number(Math.round(rate('steps'))),
    preemptions: number(counts.preemptions),
  };
  for (const [id, value] of Object.entries(values)) setText(byId(`tile-${id}`), value);
}

function showPoolSummary({ blocks, used, cached, block_size: size, blocks_per_cell: perCell }) {
  const parts = [
    `${number(blocks)} blocks of ${size} tokens`,
    `${number(used)} in use`,
    `${number(cached)} with reusable content`,
  ];
  if (perCell > 1) parts.push(`${perCell} blocks a cell`);
  setText(byId('pool-summary'), parts.join(' · '));
}

function buildCharts() {
  charts = {
    step: new Bars('Tokens a step', [['prefill', 'prompt'], ['decode', 'answer']]),
    first: new Sparkline('Time to first token', duration),
    token: new Sparkline('Time per output token', duration),
  };
  byId('charts').append(...Object.values(charts).map((chart) => chart.root));
}

/** Means over the time since the picture before; nothing where nothing happened. */
function showCharts(frame) {
  charts.step.add(frame.steps);
  const { counts } = frame;
  const since = previous?.counts ?? counts;
  const started = counts.first_tokens - since.first_tokens;
  const waited = counts.first_token_seconds - since.first_token_seconds;
  charts.first.add(started > 0 ? waited / started : null);
  charts.token.add(timePerToken(frame.steps));
}

/** Time from step to step, weighted by the sequences that got their next token in it. */
function timePerToken(steps) {
  let [seconds, tokens] = [0, 0];
  for (const step of steps) {
    if (lastStep && step.number === lastStep.number + 1) {
      seconds += (step.ended - lastStep.ended) * step.decode;
      tokens += step.decode;
    }
    lastStep = step;
  }
  return tokens > 0 ? seconds / tokens : null;
}

const name = (sequence) => `${sequence.request}${sequence.choice ? `.${sequence.choice}` : ''}`;

function showSequences({ sequences, counts, models }) {
  const shown = sequences.slice(0, MAX_ROWS);
  const total = counts.running + counts.waiting;
  const more = total > shown.length ? `first ${shown.length} of ${number(total)}` : '';
  setText(byId('sequences-summary'), more || (total ? `${number(total)}` : 'none'));
  const seen = new Set();
  shown.forEach((sequence, at) => {
    seen.add(sequence.id);
    const row = rows.get(sequence.id) ?? newRow(sequence);
    fillRow(row, sequence, models);
    const body = byId('sequences');
    if (body.children[at] !== row.root) body.insertBefore(row.root, body.children[at] ?? null);
  });
  for (const [id, row] of rows) {
    if (seen.has(id)) continue;
    row.root.remove();
    rows.delete(id);
  }
}

function newRow(sequence) {
  const swatch = element('i', { className: 'swatch' });
  swatch.style.background = colorOf(sequence.id);
  const label = element('th', { scope: 'row' }, swatch, name(sequence));
  const cell = (_, at) => element('td', { className: at > 1 ? 'num' : '' });
  const cells = Array.from({ length: 8 }, cell);
  const root = element('tr', { data: { id: String(sequence.id) } }, label, ...cells);
  const row = { root, cells };
  rows.set(sequence.id, row);
  return row;
}

function fillRow({ root, cells }, sequence, models) {
  const { state, prompt, cached, computed, generated, max_generated: most } = sequence;
  root.dataset.state = state;
  const texts = [
    models[sequence.model]?.name ?? '',
    state,
    cached ? `${number(prompt)} (${number(cached)} cached)` : number(prompt),
    number(computed),
    most ? `${number(generated)} / ${number(most)}` : '–',
    number(sequence.blocks),
    duration(sequence.waited),
    duration(sequence.age),
  ];
  texts.forEach((text, at) => setText(cells[at], text));
}

/** What happened to whom since the picture before. */
function showPreemptions(frame) {
  if (!previous) return;
  const before = new Map(previous.sequences.map((sequence) => [sequence.id, sequence]));
  const lines = [];
  let numSeen = 0;
  for (const sequence of frame.sequences) {
    const past = before.get(sequence.id);
    const lost = sequence.preemptions - (past?.preemptions ?? 0);
    if (lost > 0) {
      numSeen += lost;
      const blocks = past?.blocks ? ` its ${past.blocks} blocks` : ' its blocks';
      lines.push(['lost', `${name(sequence)} lost${blocks}`]);
    } else if (past?.state === 'preempted' && sequence.state === 'running') {
      lines.push(['resumed', `${name(sequence)} goes on`]);
    }
  }
  const unseen = frame.counts.preemptions - previous.counts.preemptions - numSeen;
  if (unseen > 0) lines.push(['lost', `${number(unseen)} more lost their blocks`]);
  if (!lines.length) return;
  const now = new Date().toLocaleTimeString([], { hour12: false });
  const list = byId('engine-events');
  const time = () => element('time', {}, now);
  list.prepend(...lines.map(([kind, text]) => element('li', { data: { kind } }, time(), text)));
  while (list.children.length > MAX_EVENTS) list.lastChild.remove();
}
