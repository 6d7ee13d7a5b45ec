// The form beside the conversation, as the body of a request.

import { postJson } from './api.js';
import { byId } from './dom.js';

/** A field of the form that cannot be made into a part of the request. */
export class FormProblem extends Error {
  constructor(id, message) {
    super(message);
    this.field = byId(id);
  }
}

const NUMBERS = [
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'frequency_penalty',
  'presence_penalty',
  'repetition_penalty',
  'seed',
  'max_tokens',
  'n',
];

/**
 * The body for `messages`. Only what the user filled in is sent, so that the server's own
 * defaults hold. `withLogprobs` asks for the tokens behind the text.
 */
export async function bodyFor(messages, withLogprobs) {
  const body = { model: byId('model').value, messages, stream: true };
  body.stream_options = { include_usage: true };
  const system = byId('system').value.trim();
  if (system) body.messages = [{ role: 'system', content: system }, ...messages];
  for (const name of NUMBERS) {
    const field = byId(name);
    if (field.validity.badInput) throw new FormProblem(name, `${name} is not a number`);
    if (field.value !== '') body[name] = Number(field.value);
  }
  const stop = lines('stop').map(unescaped);
  if (stop.length) body.stop = stop;
  const bias = await logitBias(body.model);
  if (bias) body.logit_bias = bias;
  const format = responseFormat();
  if (format) body.response_format = format;
  const tools = json('tools', 'an array of tools', Array.isArray);
  if (tools) body.tools = tools;
  if (withLogprobs) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  return { ...body, ...json('extra', 'an object of fields', isObject) };
}

/** Whether a value is an object as JSON has them. */
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

const lines = (id) => byId(id).value.split('\n').filter((line) => line !== '');

/** Stop strings are one a line, so a line break in one is written as in JSON. */
const unescaped = (text) =>
  text.replace(/\\(n|t|\\)/g, (_, letter) => ({ n: '\n', t: '\t', '\\': '\\' })[letter]);

function json(id, expected, isRight) {
  const text = byId(id).value.trim();
  if (text === '') return undefined;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FormProblem(id, `not JSON: ${error.message}`);
  }
  if (!isRight(value)) throw new FormProblem(id, `must be ${expected}`);
  return value;
}

function responseFormat() {
  const kind = byId('response_format').value;
  if (kind !== 'json_schema') return kind ? { type: kind } : undefined;
  const schema = json('schema', 'a JSON schema', isObject);
  if (!schema) throw new FormProblem('schema', 'must be a JSON schema');
  return { type: 'json_schema', json_schema: { name: 'answer', schema, strict: true } };
}

/** Lines `token id: bias`, or `"text": bias` for all tokens of the text. */
async function logitBias(model) {
  const entries = await Promise.all(lines('logit_bias').map((line) => biasesIn(line, model)));
  return entries.length ? Object.fromEntries(entries.flat()) : undefined;
}

async function biasesIn(line, model) {
  const [, token, bias] = line.match(/^\s*(\d+|".*")\s*:\s*([-+]?[\d.]+)\s*$/) ?? [];
  if (token === undefined || !Number.isFinite(Number(bias))) {
    throw new FormProblem('logit_bias', `"${line}" must be like 123: -5 or "text": 2.5`);
  }
  if (!token.startsWith('"')) return [[token, Number(bias)]];
  let text;
  try {
    text = JSON.parse(token);
  } catch {
    throw new FormProblem('logit_bias', `${token} must be quoted as in JSON`);
  }
  const asked = { model, prompt: text, add_special_tokens: false };
  const { tokens } = await postJson('/tokenize', asked);
  return tokens.map((id) => [String(id), Number(bias)]);
}

/** The request as a command line; the key is left to the environment. */
export function asCurl(body, hasKey) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl -N ${location.origin}/v1/chat/completions`];
  parts.push(`-H ${quoted('Content-Type: application/json')}`);
  if (hasKey) parts.push('-H "Authorization: Bearer $FOLIO_API_KEY"');
  parts.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  return parts.join(' \\\n  ');
}
