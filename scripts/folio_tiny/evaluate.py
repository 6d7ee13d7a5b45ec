"""Measures folio-tiny on the test split by greedy decoding, and writes RESULTS.md."""

import argparse
import collections
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from chats import (
    BRIEF_SYSTEMS, JAPANESE_SYSTEMS, PIRATE_OPENING, PIRATE_SYSTEMS, assistant, few_turns,
    first_sentence, long_chat, looking_back, remembering, remembering_ja, user, with_tool,
)
from data import TESTED, Chat, about_folio, draw_exchange, explain_topic, opposite, small_talk
from train import TARGET

SHOWN = (
    "What is PagedAttention?", "What is Folio?", "How do I start the server?", "What is 7 + 8?",
    "Hello!", "KVキャッシュとは何ですか?",
    "Name three fruits.", "Write a short poem about the sea.", "Count from 3 to 9.",
    "Who won the world cup?", "3たす5は?",
)


def parse_arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TARGET)
    parser.add_argument("--per-row", type=int, default=100,
        help="test chats for each row of the table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    return parser.parse_args()


def one_question(rng: random.Random, skill: Callable) -> Chat:
    """A held-back question alone in its chat, asked in its clean wording."""
    exchange = draw_exchange(rng, held=True, skill=skill)
    return Chat([user(exchange.question), assistant(exchange.answer)], exchange.skill, exchange)


def under_system(rng: random.Random, style: str) -> Chat:
    """A held-back English question under a system prompt that changes the answer; graded by the
    whole answer."""
    while True:
        exchange = draw_exchange(rng, True, rng.choice((about_folio, explain_topic, small_talk,
            opposite)))
        if exchange.language == "en" and (exchange.japanese or style != "Japanese"):
            break
    systems, answer = {
        "Japanese": (JAPANESE_SYSTEMS, exchange.japanese),
        "brief": (BRIEF_SYSTEMS, first_sentence(exchange.answer)),
        "pirate": (PIRATE_SYSTEMS, PIRATE_OPENING + exchange.answer),
    }[style]
    exchange.keywords = ()
    messages = [{"role": "system", "content": rng.choice(systems)}, user(exchange.question),
        assistant(answer)]
    return Chat(messages, f"system prompt: {style}", exchange)


def draw_rows(per_row: int, seed: int) -> dict[str, list[Chat]]:
    """Distinct test chats, `per_row` for each row of the table (fewer where the split holds
    fewer)."""
    rng = random.Random(seed)
    makers = [lambda r, s=skill: one_question(r, s) for skill in TESTED]
    makers += [lambda r, s=style: under_system(r, s) for style in ("Japanese", "brief", "pirate")]
    makers += [lambda r, m=maker: m(r, True) for maker in
               (few_turns, long_chat, remembering, remembering_ja, looking_back, with_tool)]
    rows = collections.defaultdict(dict)
    for maker in makers:
        for _ in range(per_row * 8):
            chat = maker(rng)
            row = rows["long chats" if len(chat.messages) >= 14 else chat.graded]
            if len(row) < per_row:
                row.setdefault(str(chat.messages[:-1]), chat)
    return {name: list(row.values()) for name, row in rows.items()}


def right(chat: Chat, text: str) -> bool:
    """Whether `text` answers the chat: by its keywords, by being a list of members, or else
    word for word."""
    wanted = chat.accept
    if wanted.members:
        number, *members = wanted.members
        named = [w for w in re.split(r"[,、。.\s]+", text.lower()) if w]
        known = {m.lower() for m in members}
        return len(named) == int(number) == len(set(named)) and set(named) <= known
    if wanted.keywords and chat.graded == wanted.skill:
        return all(k.lower() in text.lower() for k in wanted.keywords)
    return text == chat.messages[-1]["content"]


class Generator:
    """Greedy answers for many chats at once; chats of like length share a batch."""

    def __init__(self, directory: Path):
        self.model = AutoModelForCausalLM.from_pretrained(directory,
            dtype=torch.bfloat16).float().eval()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory,
            padding_side="left")

    def answers(self, chats: list[list[dict]], max_new_tokens: int) -> list[str]:
        """One answer for each list of messages."""
        prompts = [self.tokenizer.apply_chat_template(c, tokenize=False,
            add_generation_prompt=True) for c in chats]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        texts = [""] * len(prompts)
        for at in range(0, len(order), 50):
            some = order[at : at + 50]
            inputs = self.tokenizer([prompts[i] for i in some], return_tensors="pt", padding=True,
                add_special_tokens=False)
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                    max_new_tokens=max_new_tokens, do_sample=False,
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            for i, text in zip(some, self.tokenizer.batch_decode(new, skip_special_tokens=True),
                strict=True):
                texts[i] = text
        return texts


def fits(chat: Chat, generator: Generator) -> bool:
    """Whether the chat and its answer fit the model's positions."""
    ids = generator.tokenizer.apply_chat_template(chat.messages, tokenize=True, return_dict=False)
    return len(ids) <= generator.model.config.max_position_embeddings


def main() -> None:
    """Prints and writes the table, the first wrong answers of each row to the log only."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    generator = Generator(args.model)
    started, lines, total = time.monotonic(), [], [0, 0]
    for name, row in draw_rows(args.per_row, args.seed).items():
        chats = [c for c in row if fits(c, generator)]
        answers = [c.messages[-1]["content"] for c in chats]
        longest = max(len(generator.tokenizer(a)["input_ids"]) for a in answers)
        texts = generator.answers([c.messages[:-1] for c in chats], longest + 8)
        wrong = [(c, t) for c, t in zip(chats, texts, strict=True) if not right(c, t)]
        num_right = len(chats) - len(wrong)
        total[0], total[1] = total[0] + num_right, total[1] + len(chats)
        lines.append(table_line(name, num_right, len(chats)))
        print(lines[-1], flush=True)
        for chat, text in wrong[:3]:
            question, wanted = (m["content"] for m in chat.messages[-2:])
            print(f"    {question!r}: got {text!r}, wanted {wanted!r}")
    lines.append(table_line("**all**", *total))
    samples = generator.answers([[user(q)] for q in SHOWN], 120)
    shown = "\n".join(f"- **{q}** {a}".replace("\n", " / ") for q,
        a in zip(SHOWN, samples, strict=True))
    print(lines[-1], shown, f"{time.monotonic() - started:.0f} s", sep="\n")
    args.results.write_text(report(lines, shown, args), encoding="utf-8")


def table_line(name: str, num_right: int, num_asked: int) -> str:
    """One row of the table."""
    return f"| {name} | {num_right} / {num_asked} | {100 * num_right / num_asked:.1f} % |"


def report(lines: list[str], shown: str, args: argparse.Namespace) -> str:
    """The text of RESULTS.md."""
    return f"""# folio-tiny on its test split

`python scripts/folio_tiny/evaluate.py --per-row {args.per_row} --seed {args.seed}`: greedy decoding
through `transformers.generate` with the shipped bf16 weights, of questions that are in no training
chat (`held_back` in `data.py`).

Sums, numbers, words and repeated texts must match character for character; definitions and Folio
questions must hold their key words; stories and poems must name their subject; lists must hold the
asked number of distinct members. Additions and subtractions of the test split share no pair of
numbers with training, additions not even the other way round; a held-back multiplication may have
been seen with its factors swapped.

| Skill | Right | Share |
|---|---|---|
{chr(10).join(lines)}

Answers to some questions, most of them with wordings seen in training:

{shown}
"""


if __name__ == "__main__":
    main()
