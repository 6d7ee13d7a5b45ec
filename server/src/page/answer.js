// One choice of an answer while it streams in, and what it cost.

import { duration, element, number, setText } from './dom.js';
import { TokenView } from './tokens.js';

/** What one choice says: text, reasoning, calls of tools. */
export class ChoiceView {
  content = '';
  reasoning = '';
  calls = [];
  finish = null;

  /** `withTokens`: the text is shown token by token. */
  constructor(label, withTokens) {
    this.text = element('div', { className: 'said' });
    this.tokens = withTokens ? new TokenView(this.text) : null;
    this.root = element('section', { className: 'choice', aria: { label } }, this.text);
  }

  /** What is new. */
  add({ delta, logprobs, finish_reason: finish }) {
    if (delta.reasoning_content) this.#addReasoning(delta.reasoning_content);
    if (delta.content) this.content += delta.content;
    if (this.tokens) this.tokens.add(delta.content ?? '', logprobs?.content ?? []);
    else if (delta.content) this.text.append(delta.content);
    for (const call of delta.tool_calls ?? []) this.#addCall(call);
    if (finish) this.finish = finish;
  }

  /** Nothing follows. */
  end() {
    this.tokens?.finish();
    if (!this.tokens) this.text.normalize();
  }

  #addReasoning(text) {
    if (!this.reasoningText) {
      this.reasoningText = element('div', { className: 'said' });
      const summary = element('summary', {}, 'Reasoning');
      const details = element('details', { open: true }, summary, this.reasoningText);
      details.className = 'reasoning';
      this.root.prepend(details);
    }
    this.reasoning += text;
    this.reasoningText.append(text);
  }

  #addCall({ index, id, function: called = {} }) {
    if (!this.calls[index]) {
      const name = element('span', { className: 'call-name' });
      const code = element('code');
      const root = element('pre', { className: 'call' }, name, code);
      this.root.append(root);
      this.calls[index] = { id: '', name: '', arguments: '', root, nameNode: name, code };
    }
    const call = this.calls[index];
    call.id += id ?? '';
    call.name += called.name ?? '';
    call.arguments += called.arguments ?? '';
    setText(call.nameNode, call.name);
    setText(call.code, call.arguments);
  }

  /** The choice as a message of the conversation. */
  message() {
    const message = { role: 'assistant', content: this.content };
    const calls = this.calls.filter(Boolean);
    if (calls.length) {
      message.tool_calls = calls.map(({ id, name, arguments: text }) => ({
        id,
        type: 'function',
        function: { name, arguments: text },
      }));
    }
    return message;
  }
}

/** Times an answer, as the client sees it. */
export class Stopwatch {
  #begun = performance.now();
  #first = null;
  #last = null;

  /** Something came. */
  tick() {
    this.#last = performance.now();
    this.#first ??= this.#last;
  }

  /** What a line below the answer says. */
  line({ usage, finishes, choices }) {
    const parts = [];
    if (this.#first !== null) {
      parts.push(`first token ${duration((this.#first - this.#begun) / 1000)}`);
    }
    const tokens = usage?.completion_tokens;
    const seconds = (this.#last - this.#first) / 1000;
    // The first token of each choice came before the clock that this is measured by.
    if (tokens > choices && seconds > 0) {
      parts.push(`${number((tokens - choices) / seconds)} tokens/s`);
    }
    if (usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens;
      const prompt = `${number(usage.prompt_tokens)} prompt tokens`;
      parts.push(cached ? `${prompt} (${number(cached)} cached)` : prompt);
      parts.push(`${number(tokens)} generated`);
    }
    parts.push(...new Set(finishes.filter(Boolean)));
    return parts.join(' · ');
  }
}
