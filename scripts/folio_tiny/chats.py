"""Whole chats: wording noise, system prompts, several turns, memory, tool results."""

import json
import random

import words
from data import FIRST_SKILLS, Chat, Exchange, Message, draw_exchange, held_back
from stories import poem, story

NEUTRAL_SYSTEMS = (
    "You are a helpful assistant.", "You are Folio.", "You are a friendly assistant.",
    "You are a helpful, honest assistant.",
    "Be helpful.", "You are folio-tiny, a small chat model.", "Answer the user's questions.",
    "You are a concise and polite assistant.",
    "あなたは親切なアシスタントです。", "You are a chat assistant. Be polite.",
)
JAPANESE_SYSTEMS = (
    "Answer in Japanese.", "Always answer in Japanese.", "日本語で答えてください。", "Reply only in Japanese.",
    "You are a helpful assistant. Answer in Japanese.", "Please speak Japanese.",
    "Respond in Japanese.",
)
BRIEF_SYSTEMS = (
    "Answer briefly.", "Be brief.", "Answer in one sentence.", "Keep your answers short.",
    "You are a helpful assistant. Be brief.",
    "Give short answers.",
)
PIRATE_SYSTEMS = (
    "You are a pirate.", "Talk like a pirate.", "You are a pirate. Answer like one.",
    "Speak like a pirate.", "Act as a pirate.",
)
PIRATE_OPENING = "Arr, matey! "
NO_SENTENCES = ("stories", "poems", "lists", "repeating", "counting")


def first_sentence(text: str) -> str:
    """The first sentence of an answer, in either language."""
    for end in ("。", ". ", "? ", "! "):
        if end in text:
            return text[: text.index(end) + 1]
    return text


def vary(rng: random.Random, exchange: Exchange) -> str:
    """The question as a hurried user may type it: lower case, no full stop, a greeting in front."""
    question = exchange.question
    if exchange.skill == "repeating":
        return question
    if exchange.language == "ja":
        return question.rstrip("?。") if rng.random() < 0.15 else question
    if rng.random() < 0.15:
        question = question.rstrip(".?!") or question
    if rng.random() < 0.2:
        question = question[0].lower() + question[1:]
    if exchange.skill not in ("small talk", "stories") and rng.random() < 0.12:
        opening = rng.choice(("Hi, ", "Hello! ", "Hey, ", "OK, ", "Please tell me: ", "Question: ",
            "Now ", "And "))
        question = opening + question
    if rng.random() < 0.05:
        question += rng.choice((" Thanks.", " Please.", " Thank you!"))
    return question


def user(text: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """A message of the model."""
    return {"role": "assistant", "content": text}


def styled(rng: random.Random, exchange: Exchange) -> tuple[str | None, str, str]:
    """Draws a system prompt that suits the exchange: `(system or None, answer, name of the
    style)`."""
    draw = rng.random()
    if draw < 0.62:
        return None, exchange.answer, ""
    if draw < 0.72 and exchange.japanese and exchange.language == "en":
        return rng.choice(JAPANESE_SYSTEMS), exchange.japanese, "Japanese"
    if 0.72 <= draw < 0.78 and exchange.skill not in NO_SENTENCES:
        return rng.choice(BRIEF_SYSTEMS), first_sentence(exchange.answer), "brief"
    if 0.78 <= draw < 0.84 and exchange.language == "en" and exchange.skill not in NO_SENTENCES:
        return rng.choice(PIRATE_SYSTEMS), PIRATE_OPENING + exchange.answer, "pirate"
    return rng.choice(NEUTRAL_SYSTEMS), exchange.answer, ""


def single(rng: random.Random, held: bool = False, skill=None) -> Chat:
    """One question and its answer, sometimes under a system prompt."""
    exchange = draw_exchange(rng, held, skill)
    system, answer, style = styled(rng, exchange)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [user(vary(rng, exchange)), assistant(answer)]
    graded = f"system prompt: {style}" if style else exchange.skill
    return Chat(messages, graded, exchange)


def several_turns(rng: random.Random, num_turns: int, held: bool = False) -> Chat:
    """A chat of `num_turns` unrelated exchanges; only the last one is of the asked split."""
    system = {"role": "system", "content": rng.choice(NEUTRAL_SYSTEMS)}
    messages = [system] if rng.random() < 0.3 else []
    for turn in range(num_turns):
        exchange = draw_exchange(rng, held and turn == num_turns - 1)
        messages += [user(vary(rng, exchange)), assistant(exchange.answer)]
    return Chat(messages, "last of several turns", exchange)


def _fact_to_remember(rng: random.Random, held: bool) -> tuple[str, str, list[str], str]:
    """A fact the user tells: `(statement, reaction, later questions, later answer)`."""
    kind = rng.choices(("name", "city", "colour", "food"), (5, 2, 2, 2))[0]
    pools = {"name": words.NAMES, "city": words.CITIES, "colour": words.COLOURS,
        "food": words.FOODS}
    value = rng.choice([v for v in pools[kind] if held_back(f"remember {v}", 15) == held])
    if kind == "name":
        if not held and rng.random() < 0.4:
            value = _invented_name(rng)
        said = rng.choice(("My name is {v}.", "I am {v}.", "Hi, I'm {v}.", "Hello, my name is {v}.",
            "Call me {v}.", "I'm {v}"))
        asked = ["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?",
            "Can you tell me my name?"]
        return said.format(v=value), f"Nice to meet you, {value}!", asked, f"Your name is {value}."
    if kind == "city":
        said = rng.choice(("I live in {v}.", "I am from {v}.", "My home is in {v}."))
        asked = ["Where do I live?", "Which city do I live in?"]
        return said.format(v=value), f"{value} sounds nice!", asked, f"You live in {value}."
    said = rng.choice((f"My favourite {kind} is {value}.", f"I like {value} most.",
        f"My favorite {kind} is {value}"))
    if "most" in said:
        said = f"Of every {kind} I like {value} most."
    asked = [f"What is my favourite {kind}?", f"Which {kind} do I like most?",
        f"Do you know my favourite {kind}?"]
    reaction = f"Good choice! I will remember that you like {value}."
    return said, reaction, asked, f"Your favourite {kind} is {value}."


def _invented_name(rng: random.Random) -> str:
    """A name made of random syllables, so that names are copied from the chat and not recalled."""
    syllables = ("ka", "lo", "mi", "ra", "ten", "vi", "sho", "nel", "da", "ru", "be", "zan", "fi",
        "gor", "pe", "ta", "wyn", "ous")
    return "".join(rng.choices(syllables, k=rng.randint(2, 3))).capitalize()


def remembering(rng: random.Random, held: bool = False) -> Chat:
    """The user tells a fact and asks for it some turns later, or asks for what was never told."""
    said, reaction, asked, recalled = _fact_to_remember(rng, held)
    told = rng.random() < 0.85
    messages = [user(said), assistant(reaction)] if told else []
    for _ in range(rng.choices((0, 1, 2, 3), (4, 3, 2, 1))[0]):
        exchange = draw_exchange(rng)
        messages += [user(vary(rng, exchange)), assistant(exchange.answer)]
    answer = recalled if told else "You have not told me that yet."
    question = rng.choice(asked)
    messages += [user(question), assistant(answer)]
    return Chat(messages, "remembering", Exchange("remembering", said, question, answer))


def remembering_ja(rng: random.Random, held: bool = False) -> Chat:
    """The Japanese form of `remembering`, for names."""
    value = rng.choice([n for n in words.NAMES if held_back(f"remember {n}", 15) == held])
    messages = [user(f"私の名前は{value}です。"), assistant(f"はじめまして、{value}さん!")]
    for _ in range(rng.randint(0, 2)):
        exchange = draw_exchange(rng)
        messages += [user(vary(rng, exchange)), assistant(exchange.answer)]
    question = rng.choice(("私の名前は何ですか?", "私の名前を覚えていますか?"))
    answer = f"あなたの名前は{value}さんです。"
    messages += [user(question), assistant(answer)]
    return Chat(messages, "remembering", Exchange("remembering", value, question, answer))


def looking_back(rng: random.Random, held: bool = False) -> Chat:
    """Asks for the model's last answer or for the user's first question, word for word."""
    chat = several_turns(rng, rng.randint(1, 3), held)
    asked = [m["content"] for m in chat.messages if m["role"] == "user"]
    if rng.random() < 0.5:
        question = rng.choice(("Say that again.", "Can you repeat that?",
            "Repeat your last answer.", "Pardon?"))
        answer = chat.messages[-1]["content"]
    else:
        question = rng.choice(("What was my first question?", "What did I ask first?"))
        answer = f'You first asked: "{asked[0]}"'
    chat.messages += [user(question), assistant(answer)]
    return Chat(chat.messages, "looking back", Exchange("looking back", question, question, answer))


def with_tool(rng: random.Random, held: bool = False) -> Chat:
    """A question answered from a tool's message, with or without the call in the chat."""
    city = rng.choice([c for c in words.CITIES if held_back(f"tool {c}", 15) == held])
    sky = rng.choice(("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"))
    result = rng.choice((f"{sky}, {rng.randint(-9, 39)} degrees", sky,
        f"{rng.randint(-9, 39)} degrees in {city}"))
    question = rng.choice(("What is the weather in {c}?", "How is the weather in {c} today?",
        "Weather in {c}?")).format(c=city)
    call = json.dumps({"name": "get_weather", "arguments": {"city": city}})
    middle = [assistant(f"<tool_call>\n{call}\n</tool_call>")] if rng.random() < 0.5 else []
    messages = [user(question), *middle, {"role": "tool", "content": result},
        assistant(f"The tool says: {result}.")]
    return Chat(messages, "tool results", Exchange("tool results", city, question,
        messages[-1]["content"]))


def long_chat(rng: random.Random, held: bool = False) -> Chat:
    """A chat of many turns, up to the model's whole context."""
    return several_turns(rng, rng.randint(8, 30), held)


def few_turns(rng: random.Random, held: bool = False) -> Chat:
    """A chat of two to four turns."""
    return several_turns(rng, rng.randint(2, 4), held)


KINDS = (
    (single, 80), (few_turns, 5), (remembering, 7), (remembering_ja, 1), (looking_back, 1.5),
    (with_tool, 1.5), (long_chat, 0.25),
)


def sample_chat(rng: random.Random) -> Chat:
    """One training chat."""
    kinds, weights = zip(*KINDS, strict=True)
    return rng.choices(kinds, weights)[0](rng)


def first_chat(rng: random.Random) -> Chat:
    """A chat for the start of training: one short exchange that copies or computes."""
    exchange = draw_exchange(rng, skills=FIRST_SKILLS)
    return Chat([user(vary(rng, exchange)), assistant(exchange.answer)], exchange.skill, exchange)


def plain_text(rng: random.Random) -> str:
    """A text without chat marks, so that bare completions make sense too: stories, poems, lines
    of sums."""
    draw = rng.random()
    if draw < 0.35:
        return story(rng, rng.choice(words.HEROES), rng.randint(0, 3))
    if draw < 0.45:
        return poem(rng, rng.choice(words.POEM_THINGS))
    if draw < 0.75:
        lines = (draw_exchange(rng) for _ in range(200))
        kinds = ("addition", "subtraction", "multiplication")
        sums = [e.answer.rstrip(".") for e in lines if e.skill in kinds and e.language == "en"]
        return "\n".join(sums[: rng.randint(4, 12)])
    return draw_exchange(rng).answer
