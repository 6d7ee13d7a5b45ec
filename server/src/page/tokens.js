// Token by token: the text of an answer tinted by how likely the model found each token, and the
// alternatives of the one that is looked at.

import { byId, element, percent } from './dom.js';

/**
 * Shows tokens as they come. The text of the answer decides: a token whose text is not part of
 * it (a special token, or what follows a stop string) is shown as such.
 */
export class TokenView {
  #decoder = new TextDecoder('utf-8');
  #text = '';
  #shown = 0;
  #pending = [];
  #partial = [];

  constructor(root) {
    this.root = root;
    root.classList.add('tokens');
    root.setAttribute('role', 'group');
    root.setAttribute('aria-label', 'Tokens; arrow keys move between them');
    root.addEventListener('keydown', (event) => this.#move(event));
  }

  /** What is new: text, and the tokens that became known with it. */
  add(text, tokens) {
    this.#text += text;
    for (const token of tokens) {
      this.#partial.push(token);
      const piece = this.#decoder.decode(Uint8Array.from(token.bytes ?? []), { stream: true });
      if (piece === '' && token.bytes?.length) continue; // the rest of the character follows
      this.#pending.push({ piece, parts: this.#partial });
      this.#partial = [];
    }
    this.#place(false);
  }

  /** Nothing follows. */
  finish() {
    if (this.#partial.length) this.#pending.push({ piece: '\uFFFD', parts: this.#partial });
    this.#place(true);
    const rest = this.#text.slice(this.#shown);
    if (rest) this.root.append(rest);
    const first = this.root.querySelector('.token');
    if (first) first.tabIndex = 0;
  }

  #place(isLast) {
    while (this.#pending.length) {
      const { piece, parts } = this.#pending[0];
      const isSaid = piece !== '' && this.#text.startsWith(piece, this.#shown);
      const mayFollow = this.#text.length - this.#shown < piece.length;
      if (!isSaid && mayFollow && !isLast) return;
      this.#pending.shift();
      this.root.append(tokenElement(piece, parts, isSaid));
      if (isSaid) this.#shown += piece.length;
    }
  }

  /** One of the tokens is a tab stop; arrows go on from there. */
  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.classList.contains('token')) return;
    const next = step > 0 ? event.target.nextElementSibling : event.target.previousElementSibling;
    if (!next?.classList.contains('token')) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

/** A token; `parts` are several where one character took more than one. */
function tokenElement(piece, parts, isSaid) {
  const chosen = parts.at(-1);
  const probability = Math.exp(parts.reduce((sum, part) => sum + part.logprob, 0));
  const text = isSaid ? piece : chosen.token;
  const node = element('span', {
    className: isSaid ? 'token' : 'token unsaid',
    tabIndex: -1,
    role: 'button',
    data: { level: String(level(probability)) },
    aria: { label: `${visible(text)}, ${percent(probability)}` },
    on: {
      pointerenter: () => show(node, text, probability, chosen),
      focus: () => show(node, text, probability, chosen),
      pointerleave: hide,
      blur: hide,
    },
  });
  node.append(text);
  return node;
}

/** Five steps of tint: 0 for what was certain, 4 for what was a surprise. */
function level(probability) {
  return [0.9, 0.6, 0.3, 0.1].filter((bound) => probability < bound).length;
}

/** Text with its white space made visible. */
function visible(text) {
  return text.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '␣');
}

function show(node, text, probability, { top_logprobs: alternatives = [], token }) {
  const card = byId('token-card');
  const rows = alternatives.map((one) => {
    const share = Math.exp(one.logprob);
    const bar = element('i', { className: 'share' });
    bar.style.setProperty('--share', `${(share * 100).toFixed(1)}%`);
    const name = element('code', {}, visible(one.token) || '∅');
    const row = element('li', {}, name, bar, element('span', {}, percent(share)));
    row.classList.toggle('chosen', one.token === token);
    return row;
  });
  card.replaceChildren(
    element('p', {}, element('code', {}, visible(text)), ` ${percent(probability)}`),
    element('ol', {}, ...rows),
  );
  card.hidden = false;
  const around = node.getBoundingClientRect();
  const left = Math.min(around.left, innerWidth - card.offsetWidth - 8);
  const below = around.bottom + 6 + card.offsetHeight < innerHeight;
  const top = below ? around.bottom + 6 : around.top - card.offsetHeight - 6;
  card.style.left = `${Math.max(8, left)}px`;
  card.style.top = `${Math.max(8, top)}px`;
}

function hide() {
  byId('token-card').hidden = true;
}

addEventListener('scroll', hide, { passive: true, capture: true });
addEventListener('keydown', (event) => event.key === 'Escape' && hide());
