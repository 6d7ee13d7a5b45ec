"""Measures an exported folio-tiny-e5 on meanings and wordings that were held back from training.

    python scripts/folio_tiny_e5/evaluate.py server/builtin/folio-tiny-e5

Everything is drawn with a fixed seed: the figures of one model directory are the same on every run.
"""

import argparse
import random
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from data import HERE, World, compatible

NUM_CANDIDATES = 200
NUM_DRAWS = 5
NUM_PAIRS = 1000
DIRECTIONS = (("en", "en"), ("ja", "ja"), ("en", "ja"), ("ja", "en"))


class Encoder:
    """The model directory as sentence-transformers reads it, in f32."""

    def __init__(self, directory):
        self.model = SentenceTransformer(
            str(directory), device="cpu", model_kwargs={"dtype": torch.float32}
        )

    def __call__(self, texts, prefix):
        """Unit vectors [n, H] of the texts behind `query: ` or `passage: `."""
        bodies = [f"{prefix}: {text}" for text in texts]
        return self.model.encode(
            bodies, batch_size=100, convert_to_tensor=True, show_progress_bar=False
        )


def draw_distinct(world, rng, num, usable=lambda meaning: True):
    """Held-back meanings, all different, of frames with slots."""
    names = [frame.name for frame in world.frames.values() if frame.slots()]
    meanings, seen = [], set()
    while len(meanings) < num:
        meaning = world.draw_meaning(rng, held_back=True, name=rng.choice(names))
        if meaning.fact() not in seen and usable(meaning):
            seen.add(meaning.fact())
            meanings.append(meaning)
    return meanings


def hit_rate(queries, passages, scores):
    """The share of queries whose best passage says what the query says or asks."""
    best = scores.argmax(dim=1).tolist()
    return sum(compatible(query, passages[b]) for query, b in zip(queries, best)) / len(queries)


def retrieval(world, encode, direction, wording):
    """Accuracy at 1 of finding a paraphrase among the wordings of 200 held-back meanings."""
    rng, total = random.Random(f"retrieval {direction} {wording}"), 0.0
    for _ in range(NUM_DRAWS):
        meanings = draw_distinct(world, rng, NUM_CANDIDATES)
        queries = [world.statement(rng, m, direction[0], wording) for m in meanings]
        passages = [
            other_wording(world, rng, m, direction[1], query) for m, query in zip(meanings, queries)
        ]
        scores = (
            encode([q.body for q in queries], "query")
            @ encode([p.body for p in passages], "passage").T
        )
        total += hit_rate(queries, passages, scores)
    return total / NUM_DRAWS


def other_wording(world, rng, meaning, language, first):
    """A trained wording of the meaning that is not word for word the text `first`."""
    while True:
        text = world.statement(rng, meaning, language)
        if text.body != first.body:
            return text


def answering(world, encode, direction):
    """Accuracy at 1 of finding a statement that answers a question, among 200 held-back ones."""
    rng, total = random.Random(f"answer {direction}"), 0.0
    for _ in range(NUM_DRAWS):
        meanings = draw_distinct(
            world, rng, NUM_CANDIDATES, lambda m: world.frames[m.frame].questions
        )
        questions = [world.question(rng, m, direction[0]) for m in meanings]
        passages = [world.statement(rng, m, direction[1]) for m in meanings]
        scores = (
            encode([q.body for q in questions], "query")
            @ encode([p.body for p in passages], "passage").T
        )
        total += hit_rate(questions, passages, scores)
    return total / NUM_DRAWS


def pair_ranking(world, encode, direction, wording):
    """How often a paraphrase scores above an unrelated text, and above a hard negative.

    A hard negative is the same frame with one slot changed. All meanings are held-back ones.
    """
    rng = random.Random(f"pairs {direction} {wording}")
    rows = []
    for meaning in draw_distinct(world, rng, NUM_PAIRS):
        sibling = world.draw_sibling(rng, meaning, held_back=True)
        unrelated = world.draw_meaning(rng, held_back=True)
        if sibling is None or unrelated.frame == meaning.frame:
            continue
        anchor = world.statement(rng, meaning, direction[0], wording)
        paraphrase = other_wording(world, rng, meaning, direction[1], anchor)
        rows.append(
            [anchor.body, paraphrase.body]
            + [world.statement(rng, m, direction[1]).body for m in (unrelated, sibling)]
        )
    anchors, good, far, near = (
        encode(column, "query" if i == 0 else "passage") for i, column in enumerate(zip(*rows))
    )
    right = (anchors * good).sum(1)
    return [(right > (anchors * other).sum(1)).float().mean().item() for other in (far, near)]


def free_text(encode):
    """Accuracy on `free_text.tsv`, hand-written sentences that no frame can make.

    Returns the number of pairs, how often the related text beats another one, and retrieval at 1.
    """
    lines = [
        line
        for line in (HERE / "free_text.tsv").read_text(encoding="utf-8").splitlines()
        if line[:1] != "#"
    ]
    queries, related = zip(*(line.split("\t") for line in lines))
    scores = encode(queries, "query") @ encode(related, "passage").T
    right = scores.diagonal().unsqueeze(1)
    others = scores.masked_fill(torch.eye(len(queries), dtype=torch.bool), -2)
    beaten = ((right > others).float().sum(1) - 1) / (len(queries) - 1)  # not itself
    return (
        len(queries),
        beaten.mean().item(),
        (scores.argmax(1) == torch.arange(len(queries))).float().mean().item(),
    )


def main():
    """Prints all figures as Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world, encode = World(), Encoder(args.directory)
    print(
        "| direction | retrieval@1 of 200 | same, unseen wording | answer@1 of 200 "
        "| paraphrase > unrelated | paraphrase > hard negative | same, unseen wording |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for direction in DIRECTIONS:
        unrelated, hard = pair_ranking(world, encode, direction, None)
        figures = [
            retrieval(world, encode, direction, None),
            retrieval(world, encode, direction, -1),
            answering(world, encode, direction),
            unrelated,
            hard,
            pair_ranking(world, encode, direction, -1)[1],
        ]
        print(
            f"| {' -> '.join(direction)} | "
            + " | ".join(f"{100 * f:.1f} %" for f in figures)
            + " |",
            flush=True,
        )
    num, beaten, first = free_text(encode)
    print(
        f"\nFree text, {num} pairs: related > unrelated {100 * beaten:.1f} %, "
        f"retrieval@1 {100 * first:.1f} %"
    )


if __name__ == "__main__":
    main()
