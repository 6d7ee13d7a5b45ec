"""The sentences folio-tiny-e5 learns from, all written by this folder.

A *meaning* is a frame of `frames.txt` with a concept of `lexicon.txt`, `acts.txt` or `words.txt` in
each slot. It can be worded in English and in Japanese in several ways; wordings of one meaning are
paraphrases, and a question of a frame is answered by the frame's statement. One meaning in ten, and
the last wording of every frame in each language, are held back from training, so that `evaluate.py`
can ask for combinations and wordings that were never seen.
"""

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
LANGUAGES = ("en", "ja")
SLOT = re.compile(r"\{([a-z]+)(\d?)\}")
HELD_BACK_SHARE = 10  # one meaning in this many is never trained on

KATAKANA = dict(
    zip(
        [c + v for c in "bdghkmnprsz" for v in "aeiou"] + ["ta", "te", "to", "ra", "yu"],
        "バビブベボダヂヅデドガギグゲゴハヒフヘホカキクケコマミムメモナニヌネノパピプペポ"
        "ラリルレロサシスセソザジズゼゾタテトラユ",
    )
)


@dataclass
class Question:
    """Wordings that ask for the slot `asked` of a frame; empty: for the whole statement."""

    asked: str
    wordings: dict = field(default_factory=lambda: {language: [] for language in LANGUAGES})


@dataclass
class Frame:
    """One kind of statement: its wordings by language, its questions and the slots it needs."""

    name: str
    wordings: dict = field(default_factory=lambda: {language: [] for language in LANGUAGES})
    questions: list = field(default_factory=list)

    def slots(self):
        """Slot names with their number, such as `person2`, in order of first use."""
        return list(dict.fromkeys("".join(found) for found in SLOT.findall(self.wordings["en"][0])))


@dataclass(frozen=True)
class Meaning:
    """A frame with one concept a slot; `slots` is a tuple of (slot, {language: synonyms}, key)."""

    frame: str
    slots: tuple

    def fact(self):
        """What a statement of this meaning says, as a set that can be compared."""
        return frozenset([topic(self.frame)] + [(slot, key) for slot, _, key in self.slots])

    def is_held_back(self):
        """True for the tenth of all meanings that training never sees; all of them have slots."""
        text = self.frame + "|" + "|".join(f"{slot}={key}" for slot, _, key in self.slots)
        return bool(self.slots) and zlib.crc32(text.encode()) % HELD_BACK_SHARE == 0


@dataclass(frozen=True)
class Text:
    """A sentence or passage, its language, and the facts it states."""

    body: str
    language: str
    facts: tuple


class World:
    """All frames and concepts, and the means to draw meanings and word them."""

    def __init__(self):
        self.concepts = {
            k: v
            for name in ("lexicon.txt", "acts.txt", "words.txt")
            for k, v in read_concepts(name).items()
        }
        self.frames = {
            frame.name: frame for name in ("frames.txt", "facts.txt") for frame in read_frames(name)
        }
        self.generators = {
            "hour": draw_hour,
            "price": draw_price,
            "count": draw_count,
            "code": draw_code,
            "madeup": draw_name,
        }
        self.names = list(self.frames)
        self.weights = [8 if frame.slots() else 1 for frame in self.frames.values()]

    def draw_concept(self, rng, category):
        """A random ({language: synonyms}, key) for a slot of this category."""
        if category in self.generators:
            return self.generators[category](rng)
        return rng.choice(self.concepts[category])

    def draw_meaning(self, rng, held_back=False, name=None):
        """A random meaning, of frame `name` if given, of the training or the held-back part."""
        while True:
            frame = self.frames[name or rng.choices(self.names, self.weights)[0]]
            slots, used = [], set()
            for slot in frame.slots():
                concept, key = self.draw_concept(rng, slot.rstrip("2"))
                while key in used:
                    concept, key = self.draw_concept(rng, slot.rstrip("2"))
                used.add(key)
                slots.append((slot, concept, key))
            meaning = Meaning(frame.name, tuple(slots))
            if meaning.is_held_back() == held_back:
                return meaning

    def draw_sibling(self, rng, meaning, held_back=False):
        """The meaning with one slot changed: a hard negative. None if no slot can change."""
        if not meaning.slots:
            return None
        for _ in range(60):
            at = rng.randrange(len(meaning.slots))
            slot = meaning.slots[at][0]
            concept, key = self.draw_concept(rng, slot.rstrip("2"))
            if key in {other for _, _, other in meaning.slots}:
                continue
            slots = meaning.slots[:at] + ((slot, concept, key),) + meaning.slots[at + 1 :]
            sibling = Meaning(meaning.frame, slots)
            if sibling.is_held_back() == held_back:
                return sibling
        return None

    def statement(self, rng, meaning, language, wording=None):
        """The meaning in words. `wording`: an index, or None for a random one of training's."""
        wordings = self.frames[meaning.frame].wordings[language]
        if wording is None:  # a frame without slots is never tested: it keeps no wording back
            wording = rng.randrange(len(wordings) - bool(meaning.slots))
        template = wordings[wording]
        return Text(fill(rng, template, meaning, language), language, (meaning.fact(),))

    def question(self, rng, meaning, language):
        """A question that the meaning's statement answers, or None if its frame has none."""
        questions = [q for q in self.frames[meaning.frame].questions if q.wordings[language]]
        if not questions:
            return None
        question = rng.choice(questions)
        body = fill(rng, rng.choice(question.wordings[language]), meaning, language)
        return Text(body, language, (asked_fact(meaning, question),))


def topic(frame):
    """What frames are about: `how_to.ask` and `how_to.guide` say things that answer each other."""
    return ("frame", frame.split(".")[0])


def asked_fact(meaning, question):
    """The part of a meaning that a question's own words mention."""
    words = "".join(question.wordings["en"] + question.wordings["ja"])
    mentioned = {"".join(found) for found in SLOT.findall(words)}
    return frozenset(
        [topic(meaning.frame)]
        + [(slot, key) for slot, _, key in meaning.slots if slot in mentioned]
    )


def fill(rng, template, meaning, language, around=""):
    """A template with a random synonym in every slot, between two `around`.

    English begins with a capital letter.
    """
    words = {slot: rng.choice(concept[language]) for slot, concept, _ in meaning.slots}
    body = SLOT.sub(
        lambda found: around + words[found.group(1) + found.group(2)] + around, template
    )
    if language == "en":
        body = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", body).replace("..", ".")
        body = body[0].upper() + body[1:]
    return body


def read_lines(name):
    """The lines of a data file without comments and blank lines."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_concepts(name):
    """{category: [({language: synonyms}, key)]} of a lexicon file."""
    concepts, category = {}, None
    for line in read_lines(name):
        if line.startswith("["):
            category = line.strip("[]")
            concepts[category] = []
            continue
        english, japanese = line.split(" = ")
        words = {"en": english.split(" / "), "ja": japanese.split(" / ")}
        concepts[category].append((words, words["en"][0]))
    return concepts


def read_frames(name):
    """The frames of a file: `@name`, then `en`/`ja` wordings, then `?slot` groups of questions."""
    frames, target = [], None
    for line in read_lines(name):
        if line.startswith("@"):
            frames.append(Frame(line[1:]))
            target = frames[-1]
        elif line.startswith("?"):
            target = Question(line[1:].strip())
            frames[-1].questions.append(target)
        else:
            language, wording = line.split(" ", 1)
            target.wordings[language].append(wording)
    return frames


def draw_hour(rng):
    """A time of day such as 7:30, said in four ways."""
    hour, minute = rng.randrange(24), rng.choice((0, 0, 15, 30, 45))
    small, half = (hour - 1) % 12 + 1, ("a.m.", "p.m.")[hour >= 12]
    english = f"{small}:{minute:02d} {half}" if minute else f"{small} {half}"
    noon = ("午前", "午後")[hour >= 12]
    japanese = f"{noon}{hour % 12}時{minute}分" if minute else f"{noon}{hour % 12}時"
    clock = f"{hour}時{minute}分" if minute else f"{hour}時"
    return {"en": [english, f"{hour}:{minute:02d}"], "ja": [japanese, clock]}, f"{hour}:{minute}"


def draw_price(rng):
    """An amount of money in dollars or yen."""
    amount = rng.choice(
        (5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 80, 100, 150, 200, 300, 500, 1000, 2000, 5000)
    )
    if rng.random() < 0.5:
        return {"en": [f"{amount} dollars", f"${amount}"], "ja": [f"{amount}ドル"]}, f"${amount}"
    return {"en": [f"{amount * 100} yen"], "ja": [f"{amount * 100}円"]}, f"{amount}yen"


def draw_count(rng):
    """A number written in digits."""
    number = rng.choice((rng.randrange(2, 20), rng.randrange(20, 100), rng.randrange(2, 40) * 50))
    return {"en": [str(number)], "ja": [str(number)]}, str(number)


def draw_code(rng):
    """A meaningless code such as KX-204, to compare without understanding it."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
    code = f"{letters}-{rng.randrange(100, 1000)}"
    return {"en": [code], "ja": [code]}, code


def common_kanji():
    """The 2,965 kanji of the first level of JIS X 0208, in code order."""
    rows = [bytes((0xA0 + row, 0xA0 + column)) for row in range(16, 48) for column in range(1, 95)]
    return [
        code.decode("euc_jp") for code in rows if not (code[0] == 0xA0 + 47 and code[1] > 0xA0 + 51)
    ]


COMMON_KANJI = common_kanji()


def draw_name(rng):
    """A made-up name: Latin and its katakana, or two random kanji so that all kanji are met."""
    if rng.random() < 0.4:
        kanji = rng.choice(COMMON_KANJI) + rng.choice(COMMON_KANJI)
        return {"en": [kanji], "ja": [kanji]}, kanji
    syllables = [rng.choice(list(KATAKANA)) for _ in range(rng.choice((2, 3, 3)))]
    latin = "".join(syllables).capitalize()
    return {"en": [latin], "ja": ["".join(KATAKANA[s] for s in syllables), latin]}, latin


def corrupt(rng, text, share):
    """The text with about `share` of its words (English) or characters (Japanese) left out."""
    units = text.body.split(" ") if text.language == "en" else list(text.body)
    kept = [unit for unit in units if rng.random() >= share] or units
    return (" " if text.language == "en" else "").join(kept)


def crop(rng, text):
    """A run of at least half of the text."""
    units = text.body.split(" ") if text.language == "en" else list(text.body)
    size = rng.randint((len(units) + 1) // 2, len(units))
    start = rng.randint(0, len(units) - size)
    return (" " if text.language == "en" else "").join(units[start : start + size])


def roughen(rng, text):
    """Small changes a user makes: no full stop, no articles, now and then a lost word."""
    body = text.body
    if text.language == "en" and rng.random() < 0.1:
        body = re.sub(r"\b(The|the|A|a|An|an) ", "", body)
    if rng.random() < 0.3:
        body = body.rstrip(".?!。?")
    if rng.random() < 0.05:
        body = corrupt(rng, Text(body, text.language, text.facts), 0.1)
    return Text(body, text.language, text.facts)


def statement_pair(world, rng, meaning):
    """Two wordings of one meaning, more often than not in two languages."""
    first, second = rng.choices(
        (("en", "en"), ("ja", "ja"), ("en", "ja"), ("ja", "en")), (2, 2, 3, 3)
    )[0]
    return world.statement(rng, meaning, first), world.statement(rng, meaning, second)


def question_pair(world, rng, meaning):
    """A question and a statement that answers it; two statements if the frame has no question."""
    language = rng.choice(LANGUAGES)
    question = world.question(rng, meaning, language)
    if question is None:
        return statement_pair(world, rng, meaning)
    answer = language if rng.random() < 0.6 else rng.choice(LANGUAGES)
    return question, world.statement(rng, meaning, answer)


def passage_pair(world, rng, meaning):
    """A passage of several statements, with a part of it, a damaged view or a question to it."""
    language = rng.choice(LANGUAGES)
    others = [world.draw_meaning(rng) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
    parts = [world.statement(rng, m, language) for m in [meaning] + others]
    rng.shuffle(parts)
    joined = (" " if language == "en" else "").join(part.body for part in parts)
    passage = Text(joined, language, tuple(fact for part in parts for fact in part.facts))
    kind = rng.random()
    if kind < 0.35 and len(parts) < 4:
        question = world.question(rng, meaning, rng.choice(LANGUAGES))
        return question or world.statement(rng, meaning, rng.choice(LANGUAGES)), passage
    if kind < 0.6:
        return Text(crop(rng, passage), language, passage.facts), passage
    return (
        Text(corrupt(rng, passage, 0.3), language, passage.facts),
        Text(corrupt(rng, passage, 0.1), language, passage.facts),
    )


def damaged_pair(world, rng, meaning):
    """Two damaged views of one statement: teaches that shared words count, whatever they are."""
    text = world.statement(rng, meaning, rng.choice(LANGUAGES))
    return Text(crop(rng, text), text.language, text.facts), Text(
        corrupt(rng, text, 0.2), text.language, text.facts
    )


def concept_pair(world, rng):
    """Two bare words or phrases for one concept."""
    words, key = world.draw_concept(rng, rng.choice(list(world.concepts)))
    first, second = rng.sample(LANGUAGES, 2) if rng.random() < 0.8 else ["en", "en"]
    fact = (frozenset([("concept", re.sub("^(the|an?) ", "", key))]),)
    return tuple(Text(rng.choice(words[language]), language, fact) for language in (first, second))


PAIR_KINDS = ((statement_pair, 60), (question_pair, 25), (passage_pair, 7), (damaged_pair, 8))


def draw_group(world, rng, size, word_share=0.1):
    """`size` training pairs of one kind whose meanings are siblings: hard negatives of each other.

    `word_share` of the groups are pairs of bare words instead.
    """
    if rng.random() < word_share:
        return [concept_pair(world, rng) for _ in range(size)]
    kinds, weights = zip(*PAIR_KINDS)
    make = rng.choices(kinds, weights)[0]
    base = world.draw_meaning(rng)
    meanings = [base] + [
        world.draw_sibling(rng, base) or world.draw_meaning(rng) for _ in range(size - 1)
    ]
    return [tuple(roughen(rng, text) for text in make(world, rng, meaning)) for meaning in meanings]


def add_prefixes(rng, pair):
    """The two bodies with e5's prefixes: a question is always a query, other texts either."""
    first, second = rng.choice(
        (("query", "passage"), ("query", "passage"), ("query", "query"), ("passage", "passage"))
    )
    return f"{first}: {pair[0].body}", f"{second}: {pair[1].body}"


def compatible(first, second):
    """True if one text says all that the other does: they must not be pushed apart."""
    return any(a <= b or b <= a for a in first.facts for b in second.facts)
