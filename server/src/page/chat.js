// The conversation: what was said, what is being said, and the buttons around it.

import { events, key } from './api.js';
import { ChoiceView, Stopwatch } from './answer.js';
import { announce, byId, confirmOn, copy, element, problemBox } from './dom.js';
import { FormProblem, asCurl, bodyFor } from './request.js';

/** Messages as the API takes them, oldest first. */
let conversation = [];
/** Stops the answer that is coming in. */
let running = null;

const narrow = matchMedia('(max-width: 60rem)');

/** Connects the view. */
export function startChat() {
  byId('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    say(byId('prompt').value);
  });
  byId('prompt').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId('composer').requestSubmit();
  });
  byId('prompt').addEventListener('input', fitPrompt);
  byId('stop-answer').addEventListener('click', () => running?.abort());
  byId('clear').addEventListener('click', clear);
  byId('messages').addEventListener('scroll', noteScroll, { passive: true });
  byId('curl').addEventListener('click', copyCurl);
  byId('examples').addEventListener('click', (event) => {
    if (event.target.tagName === 'BUTTON') say(event.target.textContent);
  });
  byId('settings').addEventListener('submit', (event) => event.preventDefault());
  byId('settings').addEventListener('reset', () => setTimeout(showSchema));
  byId('response_format').addEventListener('change', showSchema);
  const fold = () => {
    byId('controls').open = !narrow.matches;
  };
  narrow.addEventListener('change', fold);
  fold();
}

function showSchema() {
  byId('schema-field').hidden = byId('response_format').value !== 'json_schema';
}

/** The message box grows with its text, up to a third of the window. */
function fitPrompt() {
  const prompt = byId('prompt');
  prompt.style.height = 'auto';
  prompt.style.height = `${Math.min(prompt.scrollHeight + 2, innerHeight / 3)}px`;
}

function clear() {
  running?.abort();
  conversation = [];
  byId('messages').replaceChildren(byId('chat-empty') ?? empty);
  empty.hidden = false;
  byId('prompt').focus();
}
const empty = byId('chat-empty');

/** Says `text`, and shows what comes back. */
async function say(text) {
  if (running || text.trim() === '') return;
  const isSent = await send([{ role: 'user', content: text }], text);
  if (isSent) {
    byId('prompt').value = '';
    fitPrompt();
  }
}

/** Sends `messages` after the conversation; false if there was nothing to send them with. */
async function send(messages, shown) {
  running = new AbortController();
  let body;
  try {
    body = await bodyFor([...conversation, ...messages], byId('tint').checked);
  } catch (error) {
    running = null;
    showFormProblem(error);
    return false;
  }
  empty.hidden = true;
  clearFormProblem();
  const mine = element('article', { className: 'message user', aria: { label: 'You' } });
  mine.append(element('div', { className: 'said' }, shown));
  const answer = new Answer(body);
  byId('messages').append(mine, answer.root);
  isFollowing = true;
  follow();
  setBusy(true);
  // Not awaited: the message is sent, and its box can be emptied.
  answer.run(running.signal).then((choice) => {
    running = null;
    setBusy(false);
    // What was not answered is not part of the conversation.
    if (choice) conversation.push(...messages, choice.message());
    if (choice) offerToolResults(answer, choice);
  });
  return true;
}

function setBusy(isBusy) {
  byId('send').hidden = isBusy;
  byId('stop-answer').hidden = !isBusy;
}

/** Whether the end of the conversation is kept in view: until the reader scrolls away from it. */
let isFollowing = true;
let isFollowPlanned = false;

/** Keeps the end in view, once a frame however many tokens come in it. */
function follow() {
  if (isFollowPlanned || !isFollowing) return;
  isFollowPlanned = true;
  requestAnimationFrame(() => {
    isFollowPlanned = false;
    const list = byId('messages');
    list.scrollTop = list.scrollHeight;
  });
}

function noteScroll() {
  const list = byId('messages');
  isFollowing = list.scrollHeight - list.scrollTop - list.clientHeight < 120;
}

/** An answer of one or more choices. */
class Answer {
  constructor(body) {
    this.body = body;
    this.stats = element('p', { className: 'stats' }, 'waiting…');
    this.list = element('div', { className: 'choices' });
    this.root = element(
      'article',
      { className: 'message assistant', aria: { label: `Answer of ${body.model}`, busy: 'true' } },
      this.list,
      this.stats,
    );
    this.choices = [];
  }

  choice(index) {
    if (!this.choices[index]) {
      const label = this.body.n > 1 ? `Choice ${index + 1}` : 'Answer';
      const view = new ChoiceView(label, this.body.logprobs === true);
      if (this.body.n > 1) view.root.prepend(element('h3', {}, label));
      this.choices[index] = view;
      this.list.append(view.root);
    }
    return this.choices[index];
  }

  /** Reads the stream; the choice to go on from, or null if there is none. */
  async run(signal) {
    const watch = new Stopwatch();
    let usage = null;
    let problem = null;
    try {
      for await (const chunk of events('/v1/chat/completions', { body: this.body, signal })) {
        for (const choice of chunk.choices) this.#add(choice, watch);
        usage = chunk.usage ?? usage;
        follow();
      }
    } catch (error) {
      if (error.name !== 'AbortError') problem = error;
    }
    this.#end(watch, usage, problem, signal.aborted);
    return this.choices.find((choice) => choice?.content || choice?.calls.length) ?? null;
  }

  #add(choice, watch) {
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta;
    if (content || reasoning || calls || choice.logprobs?.content?.length) watch.tick();
    this.choice(choice.index).add(choice);
    if (this.stats.textContent === 'waiting…') this.stats.textContent = 'answering…';
  }

  #end(watch, usage, problem, wasStopped) {
    const choices = this.choices.filter(Boolean);
    choices.forEach((choice) => choice.end());
    const finishes = choices.map((choice) => choice.finish);
    const line = watch.line({ usage, finishes, choices: choices.length });
    this.stats.textContent = [wasStopped && 'stopped', line].filter(Boolean).join(' · ');
    this.root.setAttribute('aria-busy', 'false');
    if (problem) this.root.append(problemBox(problem));
    else announce(choices.map((choice) => choice.content).join('\n'));
    follow();
  }
}

/** A form for what the tools that were called gave, if any were. */
function offerToolResults(answer, choice) {
  const calls = choice.calls.filter(Boolean);
  if (!calls.length) return;
  const fields = calls.map((call, index) => {
    const area = element('textarea', { rows: 2, id: `result-${call.id || index}` });
    const label = element('label', { htmlFor: area.id }, `Result of ${call.name}`);
    return { call, area, node: element('div', { className: 'field wide' }, label, area) };
  });
  const button = element('button', { type: 'submit', className: 'primary' }, 'Send results');
  const form = element('form', { className: 'tool-results' }, ...fields.map((f) => f.node), button);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (running) return;
    const messages = fields.map(({ call, area }) => ({
      role: 'tool',
      tool_call_id: call.id,
      content: area.value,
    }));
    if (await send(messages, messages.map((message) => message.content).join('\n'))) form.remove();
  });
  answer.root.append(form);
  follow();
}

function showFormProblem(error) {
  clearFormProblem();
  const box = problemBox(error);
  box.id = 'form-problem';
  byId('composer').before(box);
  if (error instanceof FormProblem) {
    byId('controls').open = true;
    error.field.setAttribute('aria-invalid', 'true');
    error.field.focus();
  }
}

function clearFormProblem() {
  byId('form-problem')?.remove();
  for (const field of document.querySelectorAll('[aria-invalid]')) {
    field.removeAttribute('aria-invalid');
  }
}

/** The request that the box would send now, or the last one's conversation if it is empty. */
async function copyCurl() {
  const text = byId('prompt').value;
  const messages = text.trim() ? [...conversation, { role: 'user', content: text }] : conversation;
  const asked = messages.at(-1)?.role === 'assistant' ? messages.slice(0, -1) : messages;
  try {
    const shown = asked.length ? asked : [{ role: 'user', content: 'Who are you?' }];
    await copy(asCurl(await bodyFor(shown, byId('tint').checked), key.get() !== ''));
    clearFormProblem();
    confirmOn(byId('curl'), 'Copied');
  } catch (error) {
    showFormProblem(error);
  }
}
