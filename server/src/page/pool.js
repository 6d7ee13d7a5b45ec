// The block pool as a grid: one cell a block, from a few hundred to more than a hundred thousand.

import { setText } from './dom.js';

const FREE = 0;
const CACHED = 1;
const SHARED = 2;
const UNLISTED = 3;
const FIRST_OWNER = 4;
const PUBLISHED = 1 << 15;

/** Sides of a cell in CSS pixels: the largest that fits is taken. */
const MAX_CELL = 20;
const MAX_HEIGHT = 420;

/** The cells of a picture, from their runs. */
export function cellsOf({ runs, cells }) {
  const bytes = Uint8Array.from(atob(runs), (letter) => letter.charCodeAt(0));
  const codes = new Uint16Array(cells);
  let at = 0;
  const next = () => {
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) return value;
    }
  };
  let filled = 0;
  while (at < bytes.length) {
    const code = next();
    const length = next();
    codes.fill(code, filled, filled + length);
    filled += length;
  }
  return codes;
}

/** Hues apart by the golden angle: neighbours in time never look alike. */
const hueOf = (id) => (id * 137.508 + 20) % 360;

/** The colour of a sequence, light or dark alike. */
export const colorOf = (id) => `hsl(${hueOf(id).toFixed(0)} 58% 50%)`;

/** Red, green and blue of hsl(hue 58% lightness). */
function rgbOf(id, lightness) {
  const hue = hueOf(id);
  const chroma = 0.58 * Math.min(lightness, 1 - lightness);
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

/** `#rrggbb` as three numbers. */
const rgb = (hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));

const mix = (a, b, share) => a.map((value, at) => Math.round(value + (b[at] - value) * share));

/** Draws the pool; says which block the pointer is on. */
export class PoolView {
  #frame = null;
  #codes = new Uint16Array();
  #highlighted = null;
  #grid = { columns: 1, rows: 1, side: 1 };
  #small = document.createElement('canvas');

  constructor(canvas, hover) {
    this.canvas = canvas;
    this.hover = hover;
    new ResizeObserver(() => this.#paint()).observe(canvas.parentElement);
    document.addEventListener('folio-theme', () => this.#paint());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#paint());
    canvas.addEventListener('pointermove', (event) => this.#point(event));
    canvas.addEventListener('pointerleave', () => {
      setText(hover, '');
      this.highlight(null);
    });
  }

  /** Shows a picture. */
  draw(frame) {
    this.#frame = frame;
    this.#codes = cellsOf(frame.pool);
    this.#paint();
  }

  /** Makes the blocks of one sequence stand out; of none with null. */
  highlight(id) {
    const wanted = id === null ? null : Number(id);
    if (wanted === this.#highlighted) return;
    this.#highlighted = wanted;
    this.#paint();
  }

  /** The largest cells that fit: whole device pixels, so that every line is sharp. */
  #fit(width, maxHeight, scale) {
    const count = Math.max(1, this.#codes.length);
    for (let side = Math.round(MAX_CELL * scale); ; side--) {
      const columns = Math.max(1, Math.floor(width / side));
      const rows = Math.ceil(count / columns);
      if (rows * side <= maxHeight || side === 1) return { columns, rows, side };
    }
  }

  #paint() {
    const width = this.canvas.parentElement.clientWidth;
    if (!this.#frame || width === 0) return;
    const scale = devicePixelRatio || 1;
    const grid = this.#fit(Math.floor(width * scale), MAX_HEIGHT * scale, scale);
    this.#grid = grid;
    const { columns, rows, side } = grid;
    const [pixelWidth, pixelHeight] = [columns * side, rows * side];
    if (this.canvas.width !== pixelWidth || this.canvas.height !== pixelHeight) {
      Object.assign(this.canvas, { width: pixelWidth, height: pixelHeight });
      this.canvas.style.width = `${pixelWidth / scale}px`;
      this.canvas.style.height = `${pixelHeight / scale}px`;
    }
    Object.assign(this.#small, { width: columns, height: rows });
    this.#small.getContext('2d').putImageData(this.#pixels(columns, rows), 0, 0);
    const context = this.canvas.getContext('2d');
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, pixelWidth, pixelHeight);
    context.drawImage(this.#small, 0, 0, pixelWidth, pixelHeight);
    if (side >= 4) this.#rule(context, Math.max(1, Math.round(side / 9)));
    this.#label();
  }

  /** Gaps between cells, where there is room for them. */
  #rule(context, gap) {
    const { columns, rows, side } = this.#grid;
    for (let x = 1; x <= columns; x++) context.clearRect(x * side - gap, 0, gap, rows * side);
    for (let y = 1; y <= rows; y++) context.clearRect(0, y * side - gap, columns * side, gap);
  }

  #pixels(columns, rows) {
    const image = new ImageData(columns, rows);
    const words = new Uint32Array(image.data.buffer);
    const palette = this.#palette();
    this.#codes.forEach((code, at) => {
      words[at] = palette(code);
    });
    return image;
  }

  /** Colours as words of little-endian RGBA, each made once a picture. */
  #palette() {
    const style = getComputedStyle(document.documentElement);
    const color = (variable) => rgb(style.getPropertyValue(variable).trim());
    const surface = color('--surface');
    const fixed = {
      [FREE]: color('--pool-free'),
      [CACHED]: color('--pool-cached'),
      [SHARED]: color('--pool-shared'),
      [UNLISTED]: color('--muted'),
    };
    const { sequences } = this.#frame;
    const known = new Map();
    return (code) => {
      let word = known.get(code);
      if (word !== undefined) return word;
      const plain = code & ~PUBLISHED;
      const id = sequences[plain - FIRST_OWNER]?.id;
      let channels = fixed[plain] ?? rgbOf(id ?? 0, 0.5);
      // A block that is still being filled is paler.
      if (plain >= FIRST_OWNER && code === plain) channels = mix(channels, surface, 0.45);
      const isDim = this.#highlighted !== null && id !== this.#highlighted;
      if (isDim) channels = mix(channels, surface, 0.8);
      const [red, green, blue] = channels;
      word = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
      known.set(code, word);
      return word;
    };
  }

  #label() {
    const { used, blocks } = this.#frame.pool;
    const text = `Block pool: ${used} of ${blocks} blocks in use`;
    if (this.canvas.ariaLabel !== text) this.canvas.ariaLabel = text;
  }

  #point(event) {
    const { columns, side } = this.#grid;
    const scale = devicePixelRatio || 1;
    const column = Math.floor((event.offsetX * scale) / side);
    const row = Math.floor((event.offsetY * scale) / side);
    const at = row * columns + column;
    const code = this.#codes[at];
    if (code === undefined || column >= columns) return;
    const owner = this.#frame.sequences[(code & ~PUBLISHED) - FIRST_OWNER];
    const block = at * this.#frame.pool.blocks_per_cell + 1;
    setText(this.hover, `Block ${block}: ${this.#use(code, owner)}`);
    this.highlight(owner ? owner.id : null);
  }

  #use(code, owner) {
    const reuse = code & PUBLISHED ? ', full and reusable' : ', being filled';
    switch (code & ~PUBLISHED) {
      case FREE: return 'free';
      case CACHED: return 'free, with content that can be reused';
      case SHARED: return 'shared by several sequences';
      case UNLISTED: return 'held for a step in flight or an unlisted sequence';
      default: return `held by ${owner?.request ?? '?'}.${owner?.choice ?? 0}${reuse}`;
    }
  }
}
