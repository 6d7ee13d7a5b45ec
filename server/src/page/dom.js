// Small helpers for building the document. Text only ever becomes a text node, never markup.

/** The element of this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. Of `properties`, `data` and `aria` are objects of attributes, `on` is one of
 * listeners, and everything else is set on the element itself.
 */
export function element(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, on = {}, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Says something to screen readers, once what was said before is out. */
export function announce(text) {
  byId('announcer').textContent = text;
}

/** Puts `text` on the clipboard, also where the page is not served over TLS. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element('textarea', { value: text, readOnly: true, className: 'visually-hidden' });
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

/** Shows on a button for a moment that it did what it says. */
export function confirmOn(button, text) {
  const before = button.textContent;
  button.textContent = text;
  announce(text);
  setTimeout(() => {
    button.textContent = before;
  }, 1500);
}

/** A length of time for people: 850 µs, 12 ms, 3.4 s, 2 min. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
  return `${Math.round(seconds / 60)} min`;
}

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat('en-US', { maximumSignificantDigits: 3 });

/** A number for people. */
export function number(value) {
  if (!Number.isFinite(value)) return '–';
  return (Math.abs(value) >= 100 || Number.isInteger(value) ? whole : fine).format(value);
}

/** A share as a percentage. */
export function percent(share) {
  return Number.isFinite(share) ? `${number(Math.round(share * 1000) / 10)} %` : '–';
}

/** Replaces text only where it changed, so that nothing is laid out again for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** What the API has against a request, as it said it. */
export function problemBox(error) {
  const lines = [element('p', { className: 'problem-message' }, error.message)];
  const facts = [
    error.status && `HTTP ${error.status}`,
    error.code && `code ${error.code}`,
    error.param && `param ${error.param}`,
    error.requestId && `request ${error.requestId}`,
  ].filter(Boolean);
  if (facts.length) lines.push(element('p', { className: 'problem-facts' }, facts.join(' · ')));
  return element('div', { className: 'problem', role: 'alert' }, ...lines);
}
