// Talks to the server that the page came from: keys, errors, event streams.

const KEY_ITEM = 'folio-api-key';

/** What the API answered instead of what was asked for. */
export class ApiProblem extends Error {
  constructor(status, body, requestId) {
    super(body?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = body?.code;
    this.param = body?.param;
    this.requestId = requestId;
  }
}

/** The API key, kept as long as the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY_ITEM) ?? '',
  set(value) {
    if (value) sessionStorage.setItem(KEY_ITEM, value);
    else sessionStorage.removeItem(KEY_ITEM);
    document.dispatchEvent(new Event('folio-key'));
  },
};

async function request(path, { body, signal, accept } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (accept) headers.accept = accept;
  const options = { headers, signal, cache: 'no-store' };
  if (body !== undefined) {
    headers['content-type'] = 'application/json';
    Object.assign(options, { method: 'POST', body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error(`the server cannot be reached (${error.message})`);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const problem = new ApiProblem(
    response.status,
    answer?.error,
    response.headers.get('x-request-id'),
  );
  if (response.status === 401) {
    document.dispatchEvent(new CustomEvent('folio-unauthorized', { detail: problem }));
  }
  throw problem;
}

/** The JSON at `path`. */
export const getJson = async (path, signal) => (await request(path, { signal })).json();

/** The JSON that comes of `body`. */
export async function postJson(path, body, signal) {
  return (await request(path, { body, signal })).json();
}

/** The events of a stream, each parsed, until it ends or says that it is done. */
export async function* events(path, { body, signal } = {}) {
  const response = await request(path, { body, signal, accept: 'text/event-stream' });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf('\n\n')) >= 0) {
        const data = dataOf(buffer.slice(0, end));
        buffer = buffer.slice(end + 2);
        if (data === '[DONE]') return;
        if (data !== '') yield parsed(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The data lines of an event; comments have none. */
function dataOf(event) {
  const lines = event.split('\n').filter((line) => line.startsWith('data:'));
  return lines.map((line) => line.slice(5).trimStart()).join('\n');
}

/** An event, unless it is an error that came after the stream had begun. */
function parsed(data) {
  const event = JSON.parse(data);
  if (event.error) throw new ApiProblem(undefined, event.error);
  return event;
}

/** All served names with what each model does: `generate` or `embed`. */
export async function listModels() {
  const [{ data }, { models }] = await Promise.all([
    getJson('/v1/models'),
    // Without it the models are listed all the same, only not told apart.
    getJson('/v1/engine/live?once').catch(() => ({ models: [] })),
  ]);
  const tasks = new Map(models.map(({ name, task }) => [name, task]));
  return data.map(({ id, root, max_model_len: maxLen }) => ({
    id,
    maxLen,
    task: tasks.get(root) ?? tasks.get(id) ?? 'generate',
  }));
}
