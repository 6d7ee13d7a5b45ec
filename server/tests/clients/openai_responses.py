"""What a user of the responses API does with the official `openai` package for Python.

Usage: openai_responses.py BASE_URL API_KEY CHAT_MODEL
Any broken expectation ends the script with a traceback.
"""

import json
import sys

import openai

base_url, api_key, chat_model = sys.argv[1:4]
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=120)
HELLO = "Hello! Who are you?"
WEATHER = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bern", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]


def plain():
    response = client.responses.create(model=chat_model, input=HELLO, temperature=0)
    chat = client.chat.completions.create(
        model=chat_model, messages=[{"role": "user", "content": HELLO}], temperature=0
    )
    assert response.output_text == chat.choices[0].message.content, response
    assert response.status == "completed" and response.id.startswith("resp_"), response
    assert response.usage.input_tokens == chat.usage.prompt_tokens, response.usage
    assert response.usage.output_tokens == chat.usage.completion_tokens, response.usage
    return response


def streamed(expected):
    events = list(
        client.responses.create(model=chat_model, input=HELLO, temperature=0, stream=True)
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == expected, deltas
    assert events[-1].response.output_text == expected
    # The helper keeps its own copy and fails where the events do not fit together.
    with client.responses.stream(model=chat_model, input=HELLO, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == expected


def kept(first):
    again = client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    items = client.responses.input_items.list(first.id)
    assert items.data[0].content[0].text == HELLO, items
    second = client.responses.create(
        model=chat_model, input="Thanks!", previous_response_id=first.id, max_output_tokens=16
    )
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    # The same conversation, with the output given back as input.
    manual = client.responses.create(
        model=chat_model,
        input=[{"role": "user", "content": HELLO}, *first.output, {"role": "user", "content": "Thanks!"}],
        max_output_tokens=16,
        store=False,
    )
    assert manual.usage.input_tokens == second.usage.input_tokens, (manual.usage, second.usage)
    client.responses.delete(first.id)
    try:
        client.responses.retrieve(first.id)
    except openai.NotFoundError as error:
        assert error.code == "response_not_found", error.body
        return
    raise AssertionError("a deleted response was found")


def cut_off():
    response = client.responses.create(model=chat_model, input=HELLO, max_output_tokens=1)
    assert response.status == "incomplete", response
    assert response.incomplete_details.reason == "max_output_tokens", response


def function_call():
    question = "What is the weather in Bern?"
    first = client.responses.create(
        model=chat_model,
        input=question,
        tools=WEATHER,
        tool_choice="required",
        temperature=0,
        max_output_tokens=200,
    )
    calls = [item for item in first.output if item.type == "function_call"]
    assert first.status == "completed" and calls, first
    assert calls[0].name == "get_weather", calls
    assert json.loads(calls[0].arguments)["city"] in ("Bern", "Oslo"), calls
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        for call in calls
    ]
    second = client.responses.create(
        model=chat_model,
        input=outputs,
        previous_response_id=first.id,
        tools=WEATHER,
        tool_choice="none",
        max_output_tokens=16,
    )
    assert [item.type for item in second.output] == ["message"], second
    events = list(
        client.responses.create(
            model=chat_model,
            input=question,
            tools=WEATHER,
            tool_choice={"type": "function", "name": "get_weather"},
            temperature=0,
            max_output_tokens=200,
            stream=True,
        )
    )
    kinds = [event.type for event in events]
    done = next(e for e in events if e.type == "response.function_call_arguments.done")
    parts = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(parts) == done.arguments, (parts, done)
    assert json.loads(done.arguments)["city"] in ("Bern", "Oslo"), done
    assert kinds[-1] == "response.completed", kinds


def schema():
    response = client.responses.create(
        model=chat_model,
        input="Name a city.",
        temperature=0,
        max_output_tokens=200,
        text={
            "format": {
                "type": "json_schema",
                "name": "city",
                "strict": True,
                "schema": WEATHER[0]["parameters"],
            }
        },
    )
    assert json.loads(response.output_text)["city"] in ("Bern", "Oslo"), response.output_text


def errors():
    for param, changes in [
        ("background", {"background": True}),
        ("temperature", {"temperature": 3}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
    ]:
        try:
            client.responses.create(**{"model": chat_model, "input": HELLO, **changes})
        except openai.BadRequestError as error:
            assert error.param == param, error.body
        else:
            raise AssertionError(f"{changes} was taken")


response = plain()
streamed(response.output_text)
kept(response)
cut_off()
function_call()
schema()
errors()
print(f"ok: {response.output_text}")
