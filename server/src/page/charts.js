// Small charts: a bar for each step, a line over the last minute.

import { element, number, setText } from './dom.js';

const HEIGHT = 72;
/** Points of a line: a minute at four a second. */
const MAX_POINTS = 240;

class Chart {
  constructor(title) {
    this.value = element('p', { className: 'chart-value' }, '–');
    this.top = element('p', { className: 'chart-top', ariaHidden: 'true' }, '');
    this.canvas = element('canvas', { role: 'img' });
    this.canvas.setAttribute('aria-label', title);
    const head = element('div', { className: 'card-head' }, element('h2', {}, title), this.value);
    const frame = element('div', { className: 'chart-frame' }, this.canvas, this.top);
    this.root = element('div', { className: 'card chart' }, head, frame);
    new ResizeObserver(() => this.paint()).observe(frame);
    document.addEventListener('folio-theme', () => this.paint());
  }

  /** A canvas of the right size, with its colours; null while nothing can be seen. */
  begin() {
    const width = this.canvas.parentElement.clientWidth;
    if (width === 0) return null;
    const scale = devicePixelRatio || 1;
    const [pixelWidth, pixelHeight] = [Math.round(width * scale), Math.round(HEIGHT * scale)];
    if (this.canvas.width !== pixelWidth || this.canvas.height !== pixelHeight) {
      Object.assign(this.canvas, { width: pixelWidth, height: pixelHeight });
    }
    const context = this.canvas.getContext('2d');
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    const style = getComputedStyle(document.documentElement);
    return { context, width, color: (name) => style.getPropertyValue(name).trim() };
  }
}

/** A line over the last minute, with gaps where nothing was measured. */
export class Sparkline extends Chart {
  #points = [];

  /** `format` makes text of a value. */
  constructor(title, format) {
    super(title);
    this.format = format;
  }

  /** The next value, or null. */
  add(value) {
    this.#points = [...this.#points, value].slice(-MAX_POINTS);
    const last = this.#points.findLast((point) => point !== null);
    setText(this.value, last === undefined ? '–' : this.format(last));
    this.paint();
  }

  paint() {
    const area = this.begin();
    if (!area) return;
    const { context, width, color } = area;
    const known = this.#points.filter((point) => point !== null);
    const most = Math.max(...known, 0);
    setText(this.top, most > 0 ? this.format(most) : '');
    const x = (at) => width - ((this.#points.length - 1 - at) / (MAX_POINTS - 1)) * width;
    const y = (value) => HEIGHT - 3 - (value / (most || 1)) * (HEIGHT - 20);
    context.strokeStyle = color('--accent');
    context.fillStyle = color('--accent');
    context.lineWidth = 1.6;
    context.lineJoin = 'round';
    let before = null;
    this.#points.forEach((value, at) => {
      if (value === null) return;
      context.beginPath();
      // A lonely point is a dot; a short pause does not tear the line.
      if (before !== null && at - before <= 8) {
        context.moveTo(x(before), y(this.#points[before]));
        context.lineTo(x(at), y(value));
        context.stroke();
      } else {
        context.arc(Math.min(x(at), width - 2), y(value), 1.6, 0, 7);
        context.fill();
      }
      before = at;
    });
  }
}

/** A bar for each step, its parts on top of each other. */
export class Bars extends Chart {
  #steps = [];

  /** `parts`: a field of a step and its name, from the bottom up. */
  constructor(title, parts) {
    super(title);
    this.parts = parts;
    const swatch = (at) => element('i', { className: `swatch part-${at}` });
    const names = parts.map(([, name], at) => element('span', {}, swatch(at), name));
    this.root.append(element('p', { className: 'legend' }, ...names));
  }

  /** The steps that are new. */
  add(steps) {
    if (!steps.length) return;
    this.#steps = [...this.#steps, ...steps].slice(-400);
    const sizes = steps.map((step) => this.#tokens(step));
    const mean = sizes.reduce((sum, size) => sum + size, 0) / sizes.length;
    setText(this.value, `${number(mean)} on average, ${number(Math.max(...sizes))} at most`);
    this.paint();
  }

  #tokens(step) {
    return this.parts.reduce((sum, [field]) => sum + step[field], 0);
  }

  paint() {
    const area = this.begin();
    if (!area || !this.#steps.length) return;
    const { context, width, color } = area;
    const bar = 3;
    const shown = this.#steps.slice(-Math.floor(width / bar));
    // A long prompt now and then must not flatten all that is between: its bar is cut.
    const sizes = shown.map((step) => this.#tokens(step)).sort((a, b) => a - b);
    const most = Math.min(sizes.at(-1), Math.max(4 * sizes[sizes.length >> 1], 16));
    setText(this.top, number(most));
    const colors = this.parts.map((_, at) => color(`--part-${at}`));
    shown.forEach((step, at) => {
      const x = width - (shown.length - at) * bar;
      let bottom = HEIGHT - 1;
      this.parts.forEach(([field], part) => {
        const room = bottom - 17;
        const height = Math.min((step[field] / most) * (HEIGHT - 18), room);
        context.fillStyle = colors[part];
        context.fillRect(x, bottom - height, bar - 1, height);
        bottom -= height;
      });
    });
  }
}
