"""Writes what folio-tiny is trained and tested on; nothing is read from outside this folder.

An `Exchange` is one question with its right answer. Each skill is a function from a random
generator to an exchange; `chats.py` puts exchanges, system prompts and memory together into whole
chats. Whether a question belongs to the test split is a pure function of its key (`held_back`), so
training never sees a test question.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import words
from chitchat import CHITCHAT
from stories import poem, poem_ja, story, story_ja
from topics import FAQS, TOPICS, Faq, Topic

Message = dict[str, str]


@dataclass
class Exchange:
    """A question and its answer. `japanese` is the same answer in Japanese where the skill
    knows one."""

    skill: str
    key: str
    question: str
    answer: str
    japanese: str | None = None
    keywords: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    language: str = "en"


@dataclass
class Chat:
    """A whole chat. `accept` grades the last answer; `graded` names its row in the report."""

    messages: list[Message]
    graded: str
    accept: Exchange


def held_back(key: str, percent: int = 10) -> bool:
    """Whether the question with this key is kept for the test split: a fixed `percent` of all
    keys."""
    percent = 18 if key.startswith("faq ") else percent  # few in number, so that more must be kept
    return zlib.crc32(key.encode()) % 100 < percent


# ---- arithmetic and numbers ----------------------------------------------------------------------

SUM_FORMS = {
    "+": (
        "What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?", "{a}+{b}=",
        "Calculate {a} + {b}.", "How much is {a} + {b}?",
        "What is {a} plus {b}?", "{a} plus {b}", "Add {a} and {b}.",
        "What is the sum of {a} and {b}?", "Compute {a} + {b}",
        "I have {a} apples and get {b} more. How many do I have?",
        "What do you get when you add {b} to {a}?",
        "{a} people are in the room and {b} more come in. How many are there?", "Solve {a} + {b}",
    ),
    "-": (
        "What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} = ?", "{a}-{b}=",
        "Calculate {a} - {b}.", "How much is {a} - {b}?",
        "What is {a} minus {b}?", "{a} minus {b}", "Subtract {b} from {a}.", "Compute {a} - {b}",
        "Take {b} away from {a}.",
        "I have {a} apples and give away {b}. How many are left?", "Solve {a} - {b}",
    ),
    "*": (
        "What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} * {b} = ?",
        "Calculate {a} * {b}.", "How much is {a} times {b}?",
        "What is {a} times {b}?", "{a} times {b}", "Multiply {a} by {b}.",
        "What is the product of {a} and {b}?", "Compute {a} * {b}",
        "There are {a} boxes with {b} apples each. How many apples are there?", "Solve {a} x {b}",
    ),
}
SUM_FORMS_JA = {
    "+": ("{a}+{b}は?", "{a}たす{b}は?", "{a}足す{b}はいくつですか?", "{a} + {b} を計算してください。", "{a}と{b}の和は?"),
    "-": ("{a}-{b}は?", "{a}ひく{b}は?", "{a}引く{b}はいくつですか?", "{a} - {b} を計算してください。"),
    "*": ("{a}*{b}は?", "{a}かける{b}は?", "{a}掛ける{b}はいくつですか?", "{a} * {b} を計算してください。", "{a}と{b}の積は?"),
}


def sum_key(a: int, op: str, b: int) -> str:
    """The split key of a sum. Both orders of an addition share one: a + b must not tell b + a."""
    if op == "*" and a == b:
        return "seen"  # a square can be learnt from no other product
    if op == "+":
        a, b = min(a, b), max(a, b)
    return f"sum {a} {op} {b}"


def draw_sum(rng: random.Random) -> tuple[int, str, int, int]:
    """Draws `(a, op, b, result)`: 0..20 for + and -, 0..10 for *, small numbers more often."""
    op = rng.choices("+-*", (45, 42, 13))[0]
    top = 10 if op == "*" else rng.choices((20, 9), (75, 25))[0]
    a, b = rng.randint(0, top), rng.randint(0, top)
    if op == "-" and a < b and rng.random() < 0.6:
        a, b = b, a
    return a, op, b, {"+": a + b, "-": a - b, "*": a * b}[op]


def one_sum(rng: random.Random) -> Exchange:
    """One sum in one of many wordings. The answer says the sum again, in digits and signs."""
    a, op, b, result = draw_sum(rng)
    japanese = rng.random() < 0.15
    form = rng.choice((SUM_FORMS_JA if japanese else SUM_FORMS)[op])
    if not japanese and "I have" in form and (a < b or b < 2):
        form = "What is {a} " + op + " {b}?"
    answer = f"{a} {op} {b} = {result}"
    names = {"+": "addition", "-": "subtraction", "*": "multiplication"}
    return Exchange(
        names[op], sum_key(a, op, b), form.format(a=a, b=b), answer + ("です。" if japanese else "."),
        japanese=answer + "です。", language="ja" if japanese else "en",
    )


def many_sums(rng: random.Random) -> Exchange:
    """Two to six sums in one message; never holds a sum of the test split, and is never tested
    itself."""
    sums = []
    while len(sums) < rng.randint(2, 6):
        a, op, b, result = draw_sum(rng)
        if not held_back(sum_key(a, op, b)):
            sums.append((f"{a} {op} {b}", f"{a} {op} {b} = {result}"))
    questions, answers = zip(*sums, strict=True)
    lead = rng.choice(("", "", "Calculate: ", "Solve these: "))
    answer = ", ".join(answers)
    return Exchange("several sums", "several sums", lead + ", ".join(questions), answer + ".",
        japanese=answer + "です。")


def too_large(rng: random.Random) -> Exchange:
    """A sum beyond the model's range, politely declined."""
    a, b = rng.randint(25, 99999), rng.randint(2, 9999)
    form = rng.choice(("What is {a} {op} {b}?", "{a} {op} {b}", "{a}{op}{b}",
        "Calculate {a} {op} {b}."))
    question = form.format(a=a, op=rng.choice("+-*"), b=b)
    return Exchange(
        "too large", question, question,
        "That is too large for me. I can calculate with numbers up to 20.",
        japanese="それは私には大きすぎます。20までの数なら計算できます。", keywords=("too large",),
    )


def count(rng: random.Random) -> Exchange:
    """Counting up or down between two numbers."""
    a = rng.choices((1, rng.randint(0, 12)), (1, 1))[0]
    b = a + rng.randint(2, 9)
    down = rng.random() < 0.25
    first, last = (b, a) if down else (a, b)
    numbers = ", ".join(str(n) for n in range(first, last + (-1 if down else 1), -1 if down else 1))
    forms = ["Count from {f} to {l}.", "Count {f} to {l}", "List the numbers from {f} to {l}.",
        "Can you count from {f} to {l}?"]
    if down:
        forms = ["Count down from {f} to {l}.", "Count backwards from {f} to {l}.",
            "Count from {f} down to {l}."]
    elif first == 1:
        forms += ["Count to {l}.", "Count up to {l}"]
    japanese = rng.random() < 0.15
    if japanese:
        forms = ["{f}から{l}まで数えてください。", "{f}から{l}まで数えて"]
    question = rng.choice(forms).format(f=first, l=last)
    return Exchange("counting", f"count {first} {last}", question, numbers, japanese=numbers,
        language="ja" if japanese else "en")


def number_facts(rng: random.Random) -> Exchange:
    """Neighbours, comparisons and parity of numbers up to thirty."""
    n, m = rng.sample(range(1, 31), 2)
    after, before = (f"{n + 1} comes after {n}.", f"{n - 1} comes before {n}.")
    even = "even" if n % 2 == 0 else "odd"
    choices = (
        (("What comes after {n}?", "Which number comes after {n}?", "What number follows {n}?"),
            after, f"{n}の次は{n + 1}です。"),
        (("What comes before {n}?", "Which number comes before {n}?"), before, f"{n}の前は{n - 1}です。"),
        (("Which is larger, {n} or {m}?", "What is bigger: {n} or {m}?", "Is {n} or {m} larger?"),
         f"{max(n, m)} is larger than {min(n, m)}.", f"{max(n, m)}の方が大きいです。"),
        (("Is {n} even or odd?", "Is the number {n} odd or even?"), f"{n} is {even}.",
            f"{n}は{'偶数' if n % 2 == 0 else '奇数'}です。"),
    )
    which = rng.randrange(len(choices))
    forms, answer, japanese = choices[which]
    key = f"number {which} {n} {m if which == 2 else ''}"
    return Exchange("number facts", key, rng.choice(forms).format(n=n, m=m), answer,
        japanese=japanese)


# ---- knowledge -----------------------------------------------------------------------------------

TOPIC_FORMS = (
    "What is {x}?", "What's {x}?", "Explain {x}.", "Can you explain {x}?", "Tell me about {x}.",
    "Please describe {x}.",
    "I want to know about {x}.", "What does {x} mean?", "Define {x}.",
    "Give me a short explanation of {x}.",
    "Could you tell me what {x} is?", "Help me understand {x}.", "Do you know what {x} is?", "{x}?",
    "How would you explain {x}?",
    "What do you know about {x}?", "How does {x} work?", "What is meant by {x}?",
    "Explain {x} to me.", "I don't understand {x}.",
)
TOPIC_FORMS_UNSEEN = (
    "Would you mind explaining {x} to me?", "Teach me about {x}.",
    "I keep reading about {x}. What is it?", "Please tell me what {x} is.",
    "Can you tell me something about {x}?", "Describe {x} in simple words.",
)
WHY_FORMS = (
    "Why is {x} useful?", "Why do we need {x}?", "What is {x} good for?",
    "What is the benefit of {x}?", "Why does {x} matter?",
    "What are the advantages of {x}?", "Why should I care about {x}?", "Why use {x}?",
)
TOPIC_FORMS_JA = (
    "{x}とは何ですか?", "{x}って何?", "{x}について教えてください。", "{x}を説明してください。", "{x}とは?", "{x}の意味は?", "{x}について教えて",
    "{x}はどんな仕組みですか?", "{x}がわかりません。", "{x}を簡単に説明して",
)
WHY_FORMS_JA = ("{x}はなぜ必要ですか?", "{x}は何の役に立ちますか?", "{x}の利点は何ですか?", "なぜ{x}が大切なのですか?")


def topic_exchange(
    rng: random.Random, topic: Topic, form: str, why: bool, japanese: bool
) -> Exchange:
    """The exchange for `topic` asked with `form`."""
    name = rng.choice(topic.names_ja if japanese else topic.names)
    answer, answer_ja = (topic.why, topic.why_ja) if why else (topic.what, topic.what_ja)
    keywords = () if why else (topic.keywords_ja if japanese else topic.keywords)
    skill = "reasons" if why else "definitions"
    return Exchange(
        skill, f"topic {topic.names[0]} {form}", form.format(x=name),
        answer_ja if japanese else answer, japanese=answer_ja,
        keywords=keywords, language="ja" if japanese else "en",
    )


def explain_topic(rng: random.Random) -> Exchange:
    """A question about a term of inference: what it is or why it is useful."""
    japanese, why = rng.random() < 0.3, rng.random() < 0.25
    plain, plain_ja = (WHY_FORMS, WHY_FORMS_JA) if why else (TOPIC_FORMS, TOPIC_FORMS_JA)
    forms = plain_ja if japanese else plain
    return topic_exchange(rng, rng.choice(TOPICS), rng.choice(forms), why, japanese)


def explain_topic_unseen(rng: random.Random) -> Exchange:
    """A definition asked with a question form that is in no training chat. Test only."""
    exchange = topic_exchange(rng, rng.choice(TOPICS), rng.choice(TOPIC_FORMS_UNSEEN), why=False,
        japanese=False)
    exchange.skill = "definitions, unseen form"
    return exchange


def from_faq(rng: random.Random, faq: Faq, skill: str) -> Exchange:
    """One of the fixed questions, in either language. The first wording of each is always
    trained on."""
    japanese = rng.random() < 0.3
    questions = faq.questions_ja if japanese else faq.questions
    which = rng.randrange(len(questions))
    key = "seen" if which == 0 else f"faq {questions[which]}"
    return Exchange(
        skill, key, questions[which],
        faq.answer_ja if japanese else faq.answer, japanese=faq.answer_ja,
        keywords=() if japanese else faq.keywords, language="ja" if japanese else "en",
    )


def about_folio(rng: random.Random) -> Exchange:
    """A question about Folio."""
    weights = [2 if faq is FAQS[0] else 1 for faq in FAQS]
    return from_faq(rng, rng.choices(FAQS, weights)[0], "about Folio")


def small_talk(rng: random.Random) -> Exchange:
    """Greetings, thanks and questions about the model itself."""
    return from_faq(rng, rng.choice(CHITCHAT), "small talk")


def unknown(rng: random.Random) -> Exchange:
    """A question the model cannot answer, and its polite refusal."""
    japanese = rng.random() < 0.25
    fill = {
        "country": rng.choice(list(words.CAPITALS_JA if japanese else words.COUNTRY_CAPITALS)),
        "city": rng.choice(list(words.CAPITALS_JA.values()) if japanese else words.CITIES),
        "thing": rng.choice(words.BROKEN_THINGS), "unknown": rng.choice(words.UNKNOWN_THINGS),
        "year": rng.randint(100, 999),
    }
    forms = words.UNKNOWN_QUESTIONS_JA if japanese else words.UNKNOWN_QUESTIONS
    question = rng.choice(forms).format(**fill)
    sorry = (
        "I am a small model and do not know that. "
        "You can ask me about Folio or about inference."
    )
    sorry_ja = "私は小さなモデルなので、それはわかりません。Folioや推論のことなら聞いてください。"
    return Exchange(
        "not knowing", question, question, sorry_ja if japanese else sorry, japanese=sorry_ja,
        language="ja" if japanese else "en",
        keywords=("小さなモデル",) if japanese else ("small model",),
    )


# ---- words ---------------------------------------------------------------------------------------

def _pair_fact(
    rng: random.Random, skill: str, pairs: list[tuple[str, str]], forms: tuple[str, ...],
    answer: str,
) -> Exchange:
    """A fact about two words, e.g. a country and its capital; they are {a} and {b} in the texts."""
    a, b = rng.choice(pairs)
    form = rng.choice(forms)
    text = answer.format(a=a, b=b)
    return Exchange(skill, f"{skill} {a} {form}", form.format(a=a), text[0].upper() + text[1:])


def opposite(rng: random.Random) -> Exchange:
    """The opposite of a word."""
    if rng.random() < 0.2:
        pairs = [*words.OPPOSITES_JA, *((b, a) for a, b in words.OPPOSITES_JA)]
        forms = ("「{a}」の反対は?", "{a}の反対は何ですか?", "{a}の反対語を教えて")
        exchange = _pair_fact(rng, "opposites", pairs, forms, "「{a}」の反対は「{b}」です。")
        exchange.language, exchange.japanese = "ja", exchange.answer
        return exchange
    pairs = [*words.OPPOSITES, *((b, a) for a, b in words.OPPOSITES if a not in ("light", "heavy",
        "white"))]
    forms = ("What is the opposite of {a}?", "Opposite of {a}?", "Tell me the opposite of {a}.",
        "Give me the opposite of {a}.",
             "Which word is the opposite of {a}?", "What's the opposite of {a}?")
    return _pair_fact(rng, "opposites", pairs, forms, "the opposite of {a} is {b}.")


def capital(rng: random.Random) -> Exchange:
    """The capital of a country."""
    if rng.random() < 0.2:
        forms = ("{a}の首都は?", "{a}の首都はどこですか?", "{a}の首都を教えてください。")
        exchange = _pair_fact(rng, "capitals", list(words.CAPITALS_JA.items()), forms,
            "{a}の首都は{b}です。")
        exchange.language, exchange.japanese = "ja", exchange.answer
        return exchange
    forms = ("What is the capital of {a}?", "Capital of {a}?", "Tell me the capital of {a}.",
        "Which city is the capital of {a}?",
             "What's the capital city of {a}?", "Do you know the capital of {a}?",
             "Name the capital of {a}.")
    return _pair_fact(rng, "capitals", list(words.COUNTRY_CAPITALS.items()), forms,
        "the capital of {a} is {b}.")


def colour_of(rng: random.Random) -> Exchange:
    """The colour of a thing."""
    forms = ("What colour is {a}?", "What color is {a}?", "Which colour does {a} have?",
        "What is the colour of {a}?",
             "Tell me the colour of {a}.")
    return _pair_fact(rng, "colours", list(words.THING_COLOURS.items()), forms, "{a} is {b}.")


def translate(rng: random.Random) -> Exchange:
    """A word in Japanese."""
    forms = ("How do you say {a} in Japanese?", "What is {a} in Japanese?",
        "Translate {a} into Japanese.", "{a} in Japanese?",
             "What is the Japanese word for {a}?", "Japanese for {a}?")
    return _pair_fact(rng, "translations", list(words.TRANSLATIONS.items()), forms,
        "in Japanese, {a} is {b}.")


def calendar(rng: random.Random) -> Exchange:
    """Neighbours of days and months."""
    names, what = rng.choice(((words.DAYS, "day"), (words.MONTHS, "month"), (words.DAYS_JA, "曜日")))
    i = rng.randrange(len(names))
    step = rng.choice((1, -1))
    word, other = ("after" if step == 1 else "before"), names[(i + step) % len(names)]
    if what == "曜日":
        side = "次" if step == 1 else "前"
        form = rng.choice(("{x}の{s}は何曜日ですか?", "{x}の{s}は?"))
        text = f"{names[i]}の{side}は{other}です。"
        return Exchange("calendar", f"calendar {names[i]} {form} {step}",
            form.format(x=names[i], s=side), text, text, language="ja")
    form = rng.choice(("What {w} comes {s} {x}?", "Which {w} is {s} {x}?",
        "Tell me the {w} {s} {x}.", "What is the {w} {s} {x}?"))
    return Exchange("calendar", f"calendar {names[i]} {form} {step}",
        form.format(w=what, s=word, x=names[i]),
                    f"{other} comes {word} {names[i]}.")


def list_of(rng: random.Random) -> Exchange:
    """Names a few members of a category; any distinct members are right."""
    if rng.random() < 0.2:
        kind = rng.choice(list(words.CATEGORIES_JA))
        n = rng.randint(2, 4)
        answer = "、".join(rng.sample(words.CATEGORIES_JA[kind], n))
        form = rng.choice(("{k}を{n}つ挙げてください。", "{k}を{n}つ教えて"))
        return Exchange("lists", f"list {kind} {n} {form}", form.format(k=kind, n=n), answer,
            answer,
                        members=(str(n), *words.CATEGORIES_JA[kind]), language="ja")
    kind = rng.choice(list(words.CATEGORIES))
    n = rng.randint(2, 5)
    form = rng.choice(("Name {n} {k}.", "List {n} {k}.", "Give me {n} {k}.",
        "Can you name {n} {k}?", "Tell me {n} {k}.",
                       "I need {n} {k}.", "Write a list of {n} {k}."))
    shown = words.NUMBER_WORDS[n] if rng.random() < 0.7 else str(n)
    answer = ", ".join(rng.sample(words.CATEGORIES[kind], n))
    return Exchange("lists", f"list {kind} {n} {form}", form.format(n=shown, k=kind),
        answer[0].upper() + answer[1:] + ".",
                    members=(str(n), *words.CATEGORIES[kind]))


def sequence(rng: random.Random) -> Exchange:
    """Whole known lists: the days, the months."""
    questions, answer, japanese = rng.choice((
        (("List the days of the week.", "Name the days of the week.",
            "What are the days of the week?", "Tell me all days of the week."),
         ", ".join(words.DAYS) + ".", "、".join(words.DAYS_JA)),
        (("List the months.", "Name the months of the year.", "What are the months of the year?",
            "Tell me all twelve months."),
         ", ".join(words.MONTHS) + ".", None),
        (("一週間の曜日を教えてください。", "曜日を全部挙げて", "曜日を並べてください。"), "、".join(words.DAYS_JA),
            "、".join(words.DAYS_JA)),
    ))
    question = rng.choice(questions)
    key = "seen" if question == questions[0] else question
    return Exchange("calendar", key, question, answer, japanese,
        language="en" if question.isascii() else "ja")


def echo(rng: random.Random) -> Exchange:
    """Repeats a text word for word: known words in any order, numbers, or random letters."""
    kind = rng.random()
    if kind < 0.5:
        text = " ".join(rng.choices(words.REPEAT_WORDS, k=rng.randint(1, 7)))
        text = text.capitalize() if rng.random() < 0.3 else text
    elif kind < 0.7:
        text = "".join(rng.choices(words.REPEAT_WORDS_JA, k=rng.randint(1, 4)))
    elif kind < 0.8:
        text = " ".join(str(rng.randint(0, 999)) for _ in range(rng.randint(1, 4)))
    else:
        text = " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz",
            k=rng.randint(2, 6))) for _ in range(rng.randint(1, 3)))
    form = rng.choice(("repeat: {t}", "Repeat: {t}", "Say {t}", "Echo: {t}", "Repeat after me: {t}",
        "Say this: {t}", "say: {t}",
                       "Please repeat: {t}", "Write this: {t}", "繰り返して: {t}", "次を繰り返してください: {t}",
                       "echo {t}"))
    return Exchange("repeating", f"echo {text}", form.format(t=text), text, text)


def write_story(rng: random.Random) -> Exchange:
    """A short or a long story about a hero; graded by the hero's name."""
    if rng.random() < 0.15:
        hero = rng.choice(("猫", "犬", "ロボット", "女の子", "男の子", "うさぎ", "くま", "魔法使い"))
        form = rng.choice(("{x}の話をしてください。", "{x}の短い物語を書いて", "{x}のお話を聞かせて"))
        text = story_ja(rng, hero)
        return Exchange("stories", f"story {hero} {form}", form.format(x=hero), text, text,
            keywords=(hero,), language="ja")
    hero = rng.choice(words.HEROES)
    long = rng.random() < 0.2
    forms = ("Tell me a {s}story about a {x}.", "Write a {s}story about a {x}.",
        "Can you tell me a {s}story about a {x}?",
             "I want to hear a {s}story about a {x}.", "Tell a {s}story with a {x}.",
             "Tell me a {s}story.", "Write a {s}story.")
    form = rng.choice(forms)
    size = "long " if long else rng.choice(("", "short "))
    keywords = (hero, "once upon a time") if "{x}" in form else ("once upon a time",)
    text = story(rng, hero, rng.randint(3, 7) if long else 0)
    return Exchange("stories", f"story {hero} {form}", form.format(x=hero, s=size), text,
        keywords=keywords)


def write_poem(rng: random.Random) -> Exchange:
    """A short poem about a thing; graded by the thing's name."""
    if rng.random() < 0.2:
        thing = rng.choice(words.POEM_THINGS_JA)
        form = rng.choice(("{x}についての詩を書いてください。", "{x}の詩を書いて", "{x}の短い詩をください。"))
        text = poem_ja(rng, thing)
        return Exchange("poems", f"poem {thing} {form}", form.format(x=thing), text, text,
            keywords=(thing,), language="ja")
    thing = rng.choice(words.POEM_THINGS)
    form = rng.choice(("Write a short poem about the {x}.", "Write a poem about the {x}.",
        "Can you write a poem about the {x}?",
                       "A poem about the {x}, please.", "Give me a poem about the {x}.",
                       "I would like a poem about the {x}."))
    return Exchange("poems", f"poem {thing} {form}", form.format(x=thing), poem(rng, thing),
        keywords=(thing,))


# Skill, share among single exchanges. Sums get the most: they must be computed, not recalled.
SKILLS: tuple[tuple[Callable[[random.Random], Exchange], float], ...] = (
    (one_sum, 22), (many_sums, 6), (too_large, 1.5), (count, 5), (number_facts, 4),
    (explain_topic, 11), (about_folio, 10),
    (small_talk, 7), (unknown, 4), (opposite, 4), (capital, 4), (colour_of, 1.5), (translate, 2.5),
    (calendar, 4), (list_of, 4),
    (sequence, 0.7), (echo, 4), (write_story, 2), (write_poem, 1.5),
)
# What training starts with: short answers that copy and compute, so that attention forms early.
FIRST_SKILLS = ((one_sum, 6), (many_sums, 4), (echo, 6), (count, 1), (number_facts, 1),
    (opposite, 1), (small_talk, 1))
TESTED = (
    one_sum, count, number_facts, explain_topic, explain_topic_unseen, about_folio, small_talk,
    unknown, opposite, capital, colour_of, translate, calendar, list_of, echo, write_story, write_poem,
)


def draw_exchange(
    rng: random.Random, held: bool = False, skill: Callable | None = None, skills=SKILLS
) -> Exchange:
    """Draws an exchange of the asked split; `skill` fixes what it is about."""
    makers, weights = zip(*skills, strict=True)
    while True:
        exchange = (skill or rng.choices(makers, weights)[0])(rng)
        if exchange.skill in ("several sums",
            "definitions, unseen form") or held_back(exchange.key) == held:
            return exchange
