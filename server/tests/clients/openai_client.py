"""What a user of the official `openai` package for Python does, against a running server.

Usage: openai_client.py BASE_URL API_KEY CHAT_MODEL EMBEDDING_MODEL
Any broken expectation ends the script with a traceback.
"""

import array
import json
import math
import sys

import openai

base_url, api_key, chat_model, embedding_model = sys.argv[1:5]
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=120)
HELLO = [{"role": "user", "content": "Hello! Who are you?"}]
# Something with many good answers, so that samples differ.
STORY = [{"role": "user", "content": "Tell me a short story about a cat."}]


def chat():
    answer = client.chat.completions.create(model=chat_model, messages=HELLO, temperature=0)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    assert choice.message.role == "assistant" and choice.message.content.strip(), answer
    assert choice.finish_reason == "stop", answer
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    return choice.message.content


def streamed_chat(expected):
    stream = client.chat.completions.create(
        model=chat_model,
        messages=HELLO,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected, (text, expected)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, chunks[-1]


def choices_and_seed():
    def ask():
        answer = client.chat.completions.create(
            model=chat_model, messages=STORY, n=3, seed=0, temperature=1.5, max_tokens=24
        )
        assert [c.index for c in answer.choices] == [0, 1, 2]
        return [c.message.content for c in answer.choices]

    first = ask()
    assert first == ask(), "a seed must repeat"
    assert len(set(first)) > 1, "each choice has a random stream of its own"


def stop_and_logprobs(expected):
    word = expected.split()[1]
    answer = client.chat.completions.create(
        model=chat_model, messages=HELLO, temperature=0, stop=[word], logprobs=True, top_logprobs=2
    )
    choice = answer.choices[0]
    assert choice.message.content == expected[: expected.index(word)], choice
    assert choice.finish_reason == "stop", choice
    content = choice.logprobs.content
    assert len(content) == answer.usage.completion_tokens, (len(content), answer.usage)
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in content)


def completion():
    answer = client.completions.create(
        model=chat_model, prompt=["One, two,", "Hello"], max_tokens=4, temperature=0, echo=True
    )
    assert answer.choices[0].text.startswith("One, two,"), answer
    assert [c.index for c in answer.choices] == [0, 1]


def embeddings():
    texts = ["query: Where is the station?", "query: 駅はどこですか。", "query: I like apples."]
    # The client asks for base64 unless told otherwise, and decodes it.
    answer = client.embeddings.create(model=embedding_model, input=texts)
    plain = client.embeddings.create(model=embedding_model, input=texts, encoding_format="float")
    vectors = [entry.embedding for entry in answer.data]
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    for vector, other in zip(vectors, (entry.embedding for entry in plain.data)):
        # Numbers are written as short as an f32 can be, so they are equal as f32.
        assert array.array("f", vector) == array.array("f", other), "base64 is exact"
        assert math.isclose(sum(a * a for a in vector), 1, rel_tol=1e-5)
    same, other = (sum(a * b for a, b in zip(vectors[0], vectors[i])) for i in (1, 2))
    assert same > other, f"a translation ({same}) should be closer than another text ({other})"


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Bern", "Zürich", "Genève"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}


def check_call(call):
    arguments = json.loads(call.function.arguments)
    assert call.type == "function" and call.id, call
    if call.function.name == "get_time":
        assert arguments == {}, call
    else:
        assert call.function.name == "get_weather", call
        assert set(arguments) == {"city", "days"}, call
        assert arguments["city"] in ("Bern", "Zürich", "Genève"), call
        assert 1 <= arguments["days"] <= 7, call


def streamed_message(stream):
    """The calls and the end of a stream, put together as the client's users do."""
    calls, text, finish = [], "", None
    for chunk in stream:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or []:
            if part.id:
                assert part.index == len(calls) and part.function.name, part
                calls.append(part)
            else:
                assert part.function.name is None, part
                calls[part.index].function.arguments += part.function.arguments
    return calls, text, finish


def tools():
    """Call, tool result, answer; whole and streamed."""
    ask = {
        "model": chat_model,
        "messages": [{"role": "user", "content": "What is the weather in Bern?"}],
        "tools": [WEATHER, TIME],
        "temperature": 0,
        "max_tokens": 200,
    }
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice, parallel, finish in [
        ("required", False, "tool_calls"),
        ("required", True, "tool_calls"),
        (named, True, "stop"),
    ]:
        request = {**ask, "tool_choice": choice, "parallel_tool_calls": parallel}
        answer = client.chat.completions.create(**request).choices[0]
        calls = answer.message.tool_calls
        assert answer.finish_reason == finish and answer.message.content is None, answer
        assert len(calls) == 1 or parallel and choice == "required", answer
        for call in calls:
            check_call(call)
        streamed, text, end = streamed_message(
            client.chat.completions.create(**request, stream=True)
        )
        assert (text, end) == ("", finish), (text, end)
        functions = [(call.function.name, call.function.arguments) for call in calls]
        assert [(c.function.name, c.function.arguments) for c in streamed] == functions
        results = [{"role": "tool", "tool_call_id": c.id, "content": "sunny"} for c in calls]
        follow_up = {**ask, "messages": [*ask["messages"], answer.message, *results]}
        last = client.chat.completions.create(**follow_up).choices[0]
        assert last.message.content and not last.message.tool_calls, last
        _, text, end = streamed_message(client.chat.completions.create(**follow_up, stream=True))
        assert (text, end) == (last.message.content, last.finish_reason), (text, last)
    refused = {**ask, "tool_choice": {"type": "function", "function": {"name": "nobody"}}}
    try:
        client.chat.completions.create(**refused)
    except openai.BadRequestError as error:
        assert error.param == "tool_choice.function.name", error.body
        return
    raise AssertionError("a tool that is not there was taken")


def models():
    names = [model.id for model in client.models.list()]
    assert chat_model in names and embedding_model in names, names
    assert client.models.retrieve(chat_model).id == chat_model


def errors():
    def refused(kind, param, **changes):
        request = {"model": chat_model, "messages": HELLO, **changes}
        try:
            client.chat.completions.create(**request)
        except kind as error:
            assert error.param == param, (error.param, error.body)
            return error
        raise AssertionError(f"{changes} was taken")

    refused(openai.BadRequestError, "temperature", temperature=3)
    refused(openai.BadRequestError, "temperature", temperature=3, stream=True)
    refused(openai.NotFoundError, "model", model="nobody")
    error = refused(openai.BadRequestError, "messages", messages=[
        {"role": "user", "content": "word " * 5000}
    ])
    assert error.code == "context_length_exceeded", error.body
    stranger = openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
    try:
        stranger.models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong key was taken")


text = chat()
streamed_chat(text)
choices_and_seed()
stop_and_logprobs(text)
completion()
embeddings()
tools()
models()
errors()
print(f"ok: {text}")
