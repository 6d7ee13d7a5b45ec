// Something to look at: a few clients that ask for several answers each, until they are stopped.

import { events } from './api.js';
import { byId } from './dom.js';

/** Browsers open six connections to a server; one shows the engine. */
const NUM_CLIENTS = 4;
const CHOICES = 12;
const MAX_MS = 120_000;
const TOPICS = ['the sea', 'a lost key', 'bread', 'an old map', 'rain', 'a clock', 'two friends'];

/** Makes `button` start and stop the load. */
export function startLoad(button) {
  let running = null;
  const stop = () => {
    running?.abort();
    running = null;
    button.setAttribute('aria-pressed', 'false');
    button.textContent = 'Start a load';
  };
  button.addEventListener('click', () => {
    if (running) return stop();
    running = new AbortController();
    const own = running;
    button.setAttribute('aria-pressed', 'true');
    button.textContent = 'Stop the load';
    setTimeout(() => own === running && stop(), MAX_MS);
    const clients = Array.from({ length: NUM_CLIENTS }, (_, at) => client(at, own.signal));
    Promise.allSettled(clients).then(() => own === running && stop());
  });
}

/** Asks again and again; ends at the first error, which the chat would show in full. */
async function client(number, signal) {
  for (let round = 0; !signal.aborted; round++) {
    const topic = TOPICS[(number * 3 + round) % TOPICS.length];
    const body = {
      model: byId('model').value,
      messages: [
        { role: 'system', content: 'You tell long stories with many details about small things.' },
        { role: 'user', content: `Tell me a story about ${topic}. `.repeat(1 + (round % 3)) },
      ],
      n: CHOICES,
      max_tokens: 48 + 32 * ((number + round) % 4),
      ignore_eos: true,
      stream: true,
    };
    const answer = events('/v1/chat/completions', { body, signal });
    for await (const chunk of answer) void chunk;
  }
}
