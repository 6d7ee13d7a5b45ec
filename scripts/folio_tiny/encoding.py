"""From chats to token rows: tokenizer, chat template, packing with a mask between chats."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from chats import plain_text
from data import Message

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, START, END)
ROW_LENGTHS = (128, 256, 1024)

# Content may be a string or a list of text parts; tool calls are written as JSON between marks.
CHAT_TEMPLATE = """\
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] + '\\n' -}}
{%- endif -%}
{{- 'Tools:\\n' -}}
{%- for tool in tools -%}
{{- (tool['function'] | tojson) + '\\n' -}}
{%- endfor -%}
{{- 'To call one: <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message['role'] == 'system') -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- elif message['content'] -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message['tool_calls'] is defined and message['tool_calls'] -%}
{%- for call in message['tool_calls'] -%}
{{- '<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": ' -}}
{%- if call['function']['arguments'] is string -%}
{{- call['function']['arguments'] -}}
{%- else -%}
{{- call['function']['arguments'] | tojson -}}
{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass
class Sample:
    """Token ids and, for each, whether the model is trained to write it."""

    ids: list[int]
    written: list[bool]


@dataclass
class Batch:
    """Rows of packed samples; every tensor is `[rows, length]`. `chunks` numbers the samples of a
    row, `targets` holds the next token where it counts and -100 elsewhere."""

    ids: torch.Tensor
    positions: torch.Tensor
    chunks: torch.Tensor
    targets: torch.Tensor

    def mask(self) -> torch.Tensor:
        """`[rows, 1, length, length]`: true where a token may look, i.e. back and within its
        own sample."""
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        return ((self.chunks[:, None, :] == self.chunks[:, :, None]) & causal)[:, None]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE: every byte is a token, so any text can be written; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=18, show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Encoder:
    """Turns chats and plain texts into samples, exactly as the chat template and the tokenizer
    would."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.start, self.end, self.end_of_text = (tokenizer.token_to_id(t) for t in (START, END,
            END_OF_TEXT))
        self.newline = self.encode("\n")

    def encode(self, text: str) -> list[int]:
        """The tokens of a piece of text without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def chat(self, messages: list[Message]) -> Sample:
        """A chat; only the assistant's words and their end mark are trained, and a tool call is
        not."""
        sample = Sample([], [])
        for message in messages:
            head = [self.start, *self.encode(message["role"] + "\n")]
            body = [*self.encode(message["content"]), self.end]
            written = message["role"] == "assistant" and "<tool_call>" not in message["content"]
            sample.ids += head + body + self.newline
            sample.written += [False] * len(head) + [written] * len(body)
            sample.written += [False] * len(self.newline)
        return sample

    def plain(self, text: str) -> Sample:
        """A text outside any chat, trained from its second token to the end-of-text mark."""
        ids = [*self.encode(text), self.end_of_text]
        return Sample(ids, [False] + [True] * (len(ids) - 1))


def draw_samples(encoder: Encoder, num_tokens: int, seed: int, maker: Callable) -> list[Sample]:
    """About `num_tokens` tokens of samples: chats from `maker`, and 3 % plain texts."""
    rng = random.Random(seed)
    samples, total = [], 0
    while total < num_tokens:
        if rng.random() < 0.03:
            sample = encoder.plain(plain_text(rng))
        else:
            sample = encoder.chat(maker(rng).messages)
        if len(sample.ids) <= ROW_LENGTHS[-1]:
            samples.append(sample)
            total += len(sample.ids)
    return samples


def pack_rows(samples: list[Sample], length: int, max_open: int = 32) -> list[list[Sample]]:
    """Packs samples into rows of up to `length` tokens, each into the fullest open row it fits."""
    closed, rows = [], []
    for sample in samples:
        fits = [row for row in rows if row[0] + len(sample.ids) <= length]
        if fits:
            row = max(fits, key=lambda r: r[0])
        else:
            row = [0, []]
            rows.append(row)
        row[0] += len(sample.ids)
        row[1].append(sample)
        if len(rows) > max_open:
            rows.sort(key=lambda r: r[0])
            closed.append(rows.pop()[1])
    return closed + [row[1] for row in rows]


def make_batch(rows: list[list[Sample]], length: int) -> Batch:
    """Lays packed rows out as tensors; the unused end of a row is a sample of its own that
    trains nothing."""
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions, chunks = torch.zeros_like(ids), torch.full_like(ids, -1)
    targets = torch.full_like(ids, -100)
    for r, row in enumerate(rows):
        at = 0
        for number, sample in enumerate(row):
            n = len(sample.ids)
            here = torch.tensor(sample.ids)
            ids[r, at : at + n] = here
            positions[r, at : at + n] = torch.arange(n)
            chunks[r, at : at + n] = number
            written = torch.tensor(sample.written[1:])
            targets[r, at : at + n - 1] = torch.where(written, here[1:], -100)
            at += n
    return Batch(ids, positions, chunks, targets)


def make_batches(
    samples: list[Sample], tokens_per_batch: int, seed: int
) -> list[tuple[list[list[Sample]], int]]:
    """Packs samples by length into rows of three lengths and cuts these into shuffled batches."""
    batches, low = [], 0
    for length in ROW_LENGTHS:
        rows = pack_rows([s for s in samples if low < len(s.ids) <= length], length)
        per_batch = max(1, tokens_per_batch // length)
        batches += [(rows[i : i + per_batch], length) for i in range(0, len(rows), per_batch)]
        low = length
    random.Random(seed).shuffle(batches)
    return batches
