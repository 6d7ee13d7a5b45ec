"""Longer texts that folio-tiny learns: short stories put together from parts, and poems."""

import random

from words import COUPLETS, POEMS_JA

PLACES = ("in a small village", "by the sea", "in a deep forest", "on a high hill",
    "in a busy town", "near a quiet lake")
FINDS = ("a silver key", "an old map", "a tiny lamp", "a strange letter", "a golden coin",
    "a broken clock")
PROBLEMS = (
    "it began to rain and the path was lost", "a river blocked the way",
    "nobody knew what it was for",
    "the night came and it was very dark", "a cold wind blew it away",
)
HELPERS = ("an old turtle", "a friendly owl", "a young sailor", "a little mouse", "a kind baker")
HELPS = (
    "showed the way home", "shared some bread and a good idea",
    "told a secret about the old bridge",
    "lit a lantern and walked ahead", "laughed and said not to worry",
)
ENDINGS = (
    "they sat by the fire and told stories", "they watched the stars together",
    "the whole village came to dance",
    "they ate warm soup and slept well", "they opened the door and found a garden",
)
MORALS = ("they were best friends", "nobody was afraid of the dark", "every day began with a song",
    "they met every evening")
MIDDLES = (
    "First they walked along the shore until their feet were tired.",
    "Then they climbed a wall and saw the whole valley below.",
    "On the way they met a merchant who gave them two apples.",
    "After a while they heard music behind the trees.",
    "They crossed a narrow bridge, one careful step at a time.",
    "At noon they rested under a tall oak and counted the clouds.",
    "Someone had left a sign, but the words were hard to read.",
    "They asked everyone they met, and everyone pointed to the north.",
)
ADJECTIVES = ("little", "brave", "clever", "lonely", "curious", "happy")


def story(rng: random.Random, hero: str, num_middles: int = 0) -> str:
    """A story about `hero`, six sentences long, plus `num_middles` more on the way."""
    pick = rng.choice
    parts = [
        f"Once upon a time, a {pick(ADJECTIVES)} {hero} lived {pick(PLACES)}.",
        f"One day, the {hero} found {pick(FINDS)}.",
        f"But {pick(PROBLEMS)}.",
        f"Then {pick(HELPERS)} came by and {pick(HELPS)}.",
        *rng.sample(MIDDLES, num_middles),
        f"That evening, {pick(ENDINGS)}.",
        f"From then on, {pick(MORALS)}.",
    ]
    return " ".join(parts)


def story_ja(rng: random.Random, hero: str) -> str:
    """A short Japanese story about `hero`."""
    place = rng.choice(("小さな村", "海の近く", "深い森", "静かな町"))
    find = rng.choice(("銀の鍵", "古い地図", "小さなランプ", "不思議な手紙"))
    helper = rng.choice(("年老いた亀", "やさしいふくろう", "若い船乗り"))
    ending = rng.choice(("みんなで星を見ました", "温かいスープを飲みました", "火のそばで歌いました"))
    return (
        f"昔々、{place}に{hero}が住んでいました。ある日、{hero}は{find}を見つけました。"
        f"そこへ{helper}が来て、道を教えてくれました。その夜、{ending}。"
    )


def poem(rng: random.Random, thing: str) -> str:
    """Four rhymed lines about `thing`; the first couplet always names it."""
    first = rng.choice(COUPLETS[:4])
    second = rng.choice(COUPLETS[4:])
    return "\n".join(line.format(x=thing) for line in (*first, *second))


def poem_ja(rng: random.Random, thing: str) -> str:
    """Four Japanese lines about `thing`."""
    return rng.choice(POEMS_JA).format(x=thing)
