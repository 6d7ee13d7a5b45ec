"""What a user of `langchain-openai` does, against a running server.

Usage: langchain_client.py BASE_URL API_KEY CHAT_MODEL EMBEDDING_MODEL
Any broken expectation ends the script with a traceback.
"""

import asyncio
import math
import sys

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

base_url, api_key, chat_model, embedding_model = sys.argv[1:5]
server = {"base_url": base_url, "api_key": api_key, "max_retries": 0, "timeout": 120}


def chat_model_of(**settings):
    return ChatOpenAI(model=chat_model, temperature=0, **settings, **server)


def chat():
    answer = chat_model_of().invoke([SystemMessage("Be brief."), HumanMessage("Hello! Who are you?")])
    assert isinstance(answer, AIMessage) and answer.content.strip(), answer
    assert answer.response_metadata["finish_reason"] == "stop", answer
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], usage
    return answer.content


def chain(expected):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    answer = (prompt | chat_model_of()).invoke({"question": "Hello! Who are you?"})
    assert answer.content == expected, (answer.content, expected)


def streamed(expected):
    messages = [SystemMessage("Be brief."), HumanMessage("Hello! Who are you?")]
    chunks = list(chat_model_of(stream_usage=True).stream(messages))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == expected, (whole.content, expected)
    assert whole.usage_metadata["output_tokens"] > 0, whole


def batch():
    answers = chat_model_of(max_tokens=8).batch(["Hello!", "What is Folio?", "Tell me a story."])
    assert len(answers) == 3 and all(answer.content for answer in answers), answers


def asynchronous():
    async def ask():
        return await asyncio.gather(*(chat_model_of(max_tokens=8).ainvoke("Hello!") for _ in range(4)))

    assert len({answer.content for answer in asyncio.run(ask())}) == 1


def completion():
    text = OpenAI(model=chat_model, temperature=0, max_tokens=8, **server).invoke("Hello")
    assert isinstance(text, str) and text, text


def structured():
    schema = {
        "title": "Person",
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    person = chat_model_of(max_tokens=200).with_structured_output(schema, method="json_schema").invoke("Anna is 31 years old.")
    assert isinstance(person["name"], str) and 0 <= person["age"] <= 150, person


def tools():
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    weather = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    bound = chat_model_of(max_tokens=200).bind_tools([weather], tool_choice="weather")
    question = HumanMessage("What is the weather in Oslo?")
    call = bound.invoke([question])
    assert call.tool_calls[0]["name"] == "weather", call
    assert isinstance(call.tool_calls[0]["args"]["city"], str), call


def embeddings():
    # Without this flag the package cuts texts into tokens of OpenAI's own models by itself.
    client = OpenAIEmbeddings(model=embedding_model, check_embedding_ctx_length=False, **server)
    near, same, far = client.embed_documents(
        ["query: Where is the station?", "query: Where is the station?", "query: I like cheese."]
    )
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert math.isclose(cosine(near, same), 1.0, abs_tol=1e-4) and cosine(near, far) < 0.999
    assert client.embed_query("query: Where is the station?") == near


first = chat()
chain(first)
streamed(first)
batch()
asynchronous()
completion()
structured()
tools()
embeddings()
print("ok: langchain-openai")
