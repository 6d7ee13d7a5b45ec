// Starts the page: tabs, colours, the key, the models. Each view is a module of its own.

import { key, listModels } from './api.js';
import { startChat } from './chat.js';
import { byId, element } from './dom.js';
import { startEmbeddings } from './embeddings.js';
import { hideEngine, showEngine, startEngine } from './engine.js';

const VIEWS = ['chat', 'embeddings', 'engine'];

function show(view) {
  document.documentElement.dataset.view = view;
  for (const name of VIEWS) {
    const isShown = name === view;
    byId(name).hidden = !isShown;
    const tab = byId(`tab-${name}`);
    tab.setAttribute('aria-selected', String(isShown));
    tab.tabIndex = isShown ? 0 : -1;
  }
  if (view === 'engine') showEngine();
  else hideEngine();
  if ((location.hash.slice(1) || 'chat') !== view) history.replaceState(null, '', `#${view}`);
}

function startTabs() {
  for (const name of VIEWS) byId(`tab-${name}`).addEventListener('click', () => show(name));
  document.querySelector('[role=tablist]').addEventListener('keydown', (event) => {
    const now = VIEWS.indexOf(event.target.id.replace('tab-', ''));
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const view = VIEWS.at(next % VIEWS.length);
    show(view);
    byId(`tab-${view}`).focus();
  });
  const fromHash = () => {
    const asked = location.hash.slice(1);
    show(VIEWS.includes(asked) ? asked : 'chat');
  };
  addEventListener('hashchange', fromHash);
  fromHash();
}

function startTheme() {
  byId('theme-toggle').addEventListener('click', () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme
      ? root.dataset.theme === 'dark'
      : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = isDark ? 'light' : 'dark';
    try {
      localStorage.setItem('folio-theme', root.dataset.theme);
    } catch {
      // Then the choice lasts as long as the page.
    }
    document.dispatchEvent(new Event('folio-theme'));
  });
}

function startKey() {
  const dialog = byId('key-dialog');
  const open = (problem) => {
    byId('api-key').value = key.get();
    byId('key-problem').hidden = !problem;
    byId('key-problem').textContent = problem?.message ?? '';
    if (!dialog.open) dialog.showModal();
  };
  byId('key-open').addEventListener('click', () => open());
  byId('key-cancel').addEventListener('click', () => dialog.close());
  byId('key-form').addEventListener('submit', () => key.set(byId('api-key').value.trim()));
  document.addEventListener('folio-unauthorized', (event) => open(event.detail));
  document.addEventListener('folio-key', loadModels);
}

/** Fills both lists of models: those that do what the view is for come first. */
async function loadModels() {
  const problem = byId('server-problem');
  try {
    const models = await listModels();
    fill(byId('model'), models, 'generate');
    fill(byId('embed-model'), models, 'embed');
    problem.hidden = true;
  } catch (error) {
    problem.textContent = `The models could not be listed: ${error.message}`;
    problem.hidden = error.status === 401;
  }
}

function fill(select, models, task) {
  const before = select.value;
  const fits = models.filter((model) => model.task === task);
  const shown = fits.length ? fits : models;
  select.replaceChildren(...shown.map(({ id }) => element('option', { value: id }, id)));
  if (shown.some(({ id }) => id === before)) select.value = before;
}

startTheme();
startKey();
startChat();
startEmbeddings();
startEngine();
startTabs();
loadModels();
