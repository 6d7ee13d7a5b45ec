"""The protocol of `vllm bench serve`: the bodies that it sends, and what it reads of the answers.

Usage: vllm_bench.py URL KEY CHAT_MODEL EMBEDDING_MODEL
"""

import json
import sys
import urllib.request

url, key, chat_model, embedding_model = sys.argv[1:5]
root = url.removesuffix("/v1")


def ask(path, body=None):
    """The open answer to `body`, or to a GET."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "x-request-id": "bench-1"}
    if data is not None:
        headers["Content-Type"] = "application/json"
    return urllib.request.urlopen(urllib.request.Request(root + path, data, headers), timeout=60)


def stream(path, body):
    """Chunks with choices, and the usage of the chunk that has none, as the benchmark sorts them."""
    chunks, usage, is_done = [], None, False
    for line in ask(path, body):
        message = line.decode().strip()
        if not message or message.startswith(":"):
            continue
        message = message.removeprefix("data: ")
        if message == "[DONE]":
            is_done = True
            continue
        data = json.loads(message)
        if data.get("choices"):
            chunks.append(data["choices"][0])
        elif data.get("usage"):
            usage = data["usage"]
    assert is_done, "the stream has no [DONE]"
    return chunks, usage


# The first model of the list is measured when none is named; its root names the tokenizer.
models = json.load(ask("/v1/models"))["data"]
assert models[0]["id"] == chat_model and models[0]["root"], models

# Prompts are aligned with the server's own tokenizer.
prompt = "the quick brown fox jumps over the lazy dog"
body = {"model": chat_model, "prompt": prompt, "add_special_tokens": False}
tokens = json.load(ask("/tokenize", body))["tokens"]
text = json.load(ask("/detokenize", {"model": chat_model, "tokens": tokens}))["prompt"]
assert text == prompt, text

common = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
for kind in (prompt, tokens):
    body = {
        "model": chat_model,
        "prompt": kind,
        "repetition_penalty": 1.0,
        "max_tokens": 8,
        "logprobs": None,
        **common,
    }
    chunks, usage = stream("/v1/completions", body)
    assert usage["completion_tokens"] == 8, usage
    assert usage["prompt_tokens"] >= len(tokens), usage
    assert "".join(chunk["text"] or "" for chunk in chunks), chunks

body = {
    "model": chat_model,
    "messages": [{"role": "user", "content": [{"type": "text", "text": prompt}]}],
    "max_completion_tokens": 8,
    "temperature": 0.0,
    **common,
}
chunks, usage = stream("/v1/chat/completions", body)
assert usage["completion_tokens"] == 8, usage
assert "".join(chunk["delta"].get("content") or "" for chunk in chunks), chunks

# Without `truncate_prompt_tokens`, which the server refuses by name: it cuts no text unasked.
body = {"model": embedding_model, "input": prompt}
answer = json.load(ask("/v1/embeddings", body))
assert answer["data"][0]["embedding"] and answer["usage"]["prompt_tokens"] > 0, answer

print("ok: the protocol of vllm bench serve")
