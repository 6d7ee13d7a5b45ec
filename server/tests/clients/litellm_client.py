"""What a user of `litellm` does, against a running server.

Usage: litellm_client.py BASE_URL API_KEY CHAT_MODEL EMBEDDING_MODEL
Any broken expectation ends the script with a traceback.
"""

import asyncio
import json
import sys

import litellm

base_url, api_key, chat_model, embedding_model = sys.argv[1:5]
litellm.telemetry = False
server = {"api_base": base_url, "api_key": api_key, "num_retries": 0, "timeout": 120}
HELLO = [{"role": "user", "content": "Hello! Who are you?"}]


def ask(provider="openai", **settings):
    return litellm.completion(
        model=f"{provider}/{chat_model}", messages=HELLO, temperature=0, **settings, **server
    )


def chat():
    answer = ask()
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content, answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return answer.choices[0].message.content


def as_a_vllm_server(expected):
    answer = ask("hosted_vllm", extra_body={"top_k": 5, "min_p": 0.0})
    assert answer.choices[0].message.content == expected, answer


def streamed(expected):
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected, (text, expected)
    usages = [c.usage for c in chunks if getattr(c, "usage", None)]
    assert usages and usages[-1].completion_tokens > 0, chunks[-1]


def asynchronous(expected):
    async def run():
        calls = (
            litellm.acompletion(
                model=f"openai/{chat_model}", messages=HELLO, temperature=0, **server
            )
            for _ in range(4)
        )
        return await asyncio.gather(*calls)

    assert {a.choices[0].message.content for a in asyncio.run(run())} == {expected}


def text_completion():
    answer = litellm.text_completion(
        model=f"text-completion-openai/{chat_model}", prompt="Hello", max_tokens=8, **server
    )
    assert answer.choices[0].text, answer


def structured():
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    answer = ask(response_format=format, max_tokens=50)
    assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool), answer


def errors_are_named():
    try:
        litellm.completion(model="openai/no-such-model", messages=HELLO, **server)
    except litellm.exceptions.NotFoundError as error:
        assert "no-such-model" in str(error), error
    else:
        raise AssertionError("a model that does not exist answered")


def embeddings():
    texts = ["query: Where is the station?", "query: I like cheese."]
    answer = litellm.embedding(
        model=f"openai/{embedding_model}", input=texts, encoding_format="float", **server
    )
    assert [item["index"] for item in answer.data] == [0, 1], answer
    assert len(answer.data[0]["embedding"]) == len(answer.data[1]["embedding"]) > 0


first = chat()
as_a_vllm_server(first)
streamed(first)
asynchronous(first)
text_completion()
structured()
errors_are_named()
embeddings()
print("ok: litellm")
