// What a user of the official `openai` package for Node does, against a running server.
//
// Usage: node openai_client.mjs BASE_URL API_KEY CHAT_MODEL EMBEDDING_MODEL
// Any broken expectation ends the script with a stack trace.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The package lives beside no source file: NODE_PATH names the directory that holds it.
const require = createRequire(import.meta.url);
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")));

const [baseURL, apiKey, chatModel, embeddingModel] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const hello = [{ role: "user", content: "Hello! Who are you?" }];

async function chat() {
  const answer = await client.chat.completions.create({ model: chatModel, messages: hello, temperature: 0 });
  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "stop");
  assert.ok(choice.message.content.trim());
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  return choice.message.content;
}

async function streamedChat(expected) {
  const stream = await client.chat.completions.create({
    model: chatModel,
    messages: hello,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, expected);
  assert.ok(usage.completion_tokens > 0);
}

async function theHelperThatCollectsAStream(expected) {
  const runner = client.chat.completions.stream({ model: chatModel, messages: hello, temperature: 0 });
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, expected);
}

async function cancelledStream() {
  const stream = await client.chat.completions.create({
    model: chatModel,
    messages: [{ role: "user", content: "Tell me a short story about a cat." }],
    stream: true,
    max_tokens: 200,
  });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break; // aborts the request
  }
}

async function completion() {
  const answer = await client.completions.create({ model: chatModel, prompt: ["Hello", "Folio is"], max_tokens: 4 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
}

async function structured() {
  const schema = {
    type: "object",
    properties: { colour: { type: "string", enum: ["rouge", "grün", "青"] } },
    required: ["colour"],
    additionalProperties: false,
  };
  const answer = await client.chat.completions.create({
    model: chatModel,
    messages: [{ role: "user", content: "Name a colour." }],
    response_format: { type: "json_schema", json_schema: { name: "colour", schema, strict: true } },
    max_tokens: 64,
  });
  assert.ok(schema.properties.colour.enum.includes(JSON.parse(answer.choices[0].message.content).colour));
}

async function toolCall() {
  const parameters = {
    type: "object",
    properties: { city: { type: "string", maxLength: 20 } },
    required: ["city"],
    additionalProperties: false,
  };
  const answer = await client.chat.completions.create({
    model: chatModel,
    messages: [{ role: "user", content: "What is the weather in Oslo?" }],
    tools: [{ type: "function", function: { name: "weather", parameters } }],
    tool_choice: "required",
    max_tokens: 200,
  });
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
}

async function embeddings() {
  // The package asks for base64 and decodes it by itself.
  const answer = await client.embeddings.create({
    model: embeddingModel,
    input: ["query: Where is the station?", "query: I like cheese."],
  });
  assert.deepEqual(answer.data.map((item) => item.index), [0, 1]);
  const length = Math.hypot(...answer.data[0].embedding);
  assert.ok(Math.abs(length - 1) < 1e-3, `length ${length}`);
}

async function errorsHaveTheirClasses() {
  await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages: hello }), OpenAI.NotFoundError);
  await assert.rejects(
    client.chat.completions.create({ model: chatModel, messages: hello, temperature: 9 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
}

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(chatModel) && ids.includes(embeddingModel));
}

const first = await chat();
await streamedChat(first);
await theHelperThatCollectsAStream(first);
await cancelledStream();
await completion();
await structured();
await toolCall();
await embeddings();
await errorsHaveTheirClasses();
await models();
console.log("ok: openai for Node");
