// How alike texts are: the cosine of each pair as a table that can be read without its colours.

import { postJson } from './api.js';
import { byId, duration, element, number, problemBox } from './dom.js';

/** More lines than this make no readable table. */
const MAX_TEXTS = 60;

/** Connects the view. */
export function startEmbeddings() {
  byId('embed-form').addEventListener('submit', (event) => {
    event.preventDefault();
    compare();
  });
}

async function compare() {
  const texts = byId('texts').value.split('\n').map((line) => line.trim()).filter(Boolean);
  const status = byId('embed-status');
  if (texts.length < 2) return void (status.textContent = 'Two texts or more can be compared.');
  if (texts.length > MAX_TEXTS) {
    return void (status.textContent = `${texts.length} texts: at most ${MAX_TEXTS} fit a table.`);
  }
  const button = byId('embed-send');
  button.disabled = true;
  const begun = performance.now();
  try {
    const body = { model: byId('embed-model').value, input: texts, encoding_format: 'float' };
    const { data, usage } = await postJson('/v1/embeddings', body);
    const seconds = (performance.now() - begun) / 1000;
    const vectors = data.toSorted((a, b) => a.index - b.index).map((one) => one.embedding);
    status.textContent = `${texts.length} texts · ${number(usage.prompt_tokens)} tokens · `
      + `${vectors[0].length} dimensions · ${duration(seconds)}`;
    byId('matrix').replaceChildren(table(texts, cosines(vectors)));
  } catch (error) {
    status.textContent = '';
    byId('matrix').replaceChildren(problemBox(error));
  } finally {
    button.disabled = false;
  }
}

/** The cosine of each pair of vectors. */
export function cosines(vectors) {
  const dot = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
  const norms = vectors.map((vector) => Math.sqrt(dot(vector, vector)));
  return vectors.map((a, i) => vectors.map((b, j) => dot(a, b) / (norms[i] * norms[j])));
}

/** Colours are stretched over the values off the diagonal, which are often close together. */
function table(texts, values) {
  const others = values.flatMap((row, i) => row.filter((_, j) => i !== j));
  const [low, high] = [Math.min(...others), Math.max(...others)];
  const range = high - low || 1;
  const head = element('tr', {}, element('td', {}), ...texts.map((text, index) => {
    const cell = element('th', { scope: 'col', title: text }, String(index + 1));
    cell.append(element('span', { className: 'visually-hidden' }, ` ${text}`));
    return cell;
  }));
  const rows = texts.map((text, i) => {
    const place = element('b', {}, String(i + 1));
    const name = element('th', { scope: 'row', title: text }, place, text);
    return element('tr', {}, name, ...values[i].map((value, j) => {
      const share = i === j ? 1 : (value - low) / range;
      const cell = element('td', { data: { strength: String(Math.round(share * 10)) } });
      cell.append(value.toFixed(2));
      cell.classList.toggle('same', i === j);
      return cell;
    }));
  });
  const caption = element('caption', {}, 'Cosine similarity; 1 is the same direction');
  return element('table', { className: 'matrix' }, caption, element('thead', {}, head),
    element('tbody', {}, ...rows));
}
