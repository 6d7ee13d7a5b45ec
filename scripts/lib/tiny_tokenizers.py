"""Tiny tokenizers of the kinds that real checkpoints carry, made from a page of text."""

import json
import math
from collections import Counter

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = """
A paged cache keeps the keys and values of a sequence in blocks, and a table says where they lie.
The scheduler plans a step, the executor carries it out, and the commit appends what was sampled.
The quick brown fox jumps over the lazy dog while the slow grey heron watches from the river bank.
In the morning the baker bakes bread, and in the evening the brewer brews beer for the whole town.
Der schnelle braune Fuchs springt über den faulen Hund; schöne Grüße aus München und Köln.
Le café est fermé, mais la forêt près du château reste ouverte toute l'année, été comme hiver.
El niño pequeño comió una manzana mañana por la mañana; ¿qué pasó después?
Numbers such as 1, 2, 3, 10, 42, 128, 2048 and 3.14159 appear in tables, prices and dates.
query: how do blocks work? passage: blocks hold sixteen tokens each, and are freed at the end.
def step(self, plan): return [self.run(item) for item in plan if item is not None]
""".strip().split("\n")

TEXTS = [
    "",
    "hello",
    "The quick brown fox jumps over the lazy dog.",
    "  leading and trailing spaces  ",
    "tabs\tand\nnew lines\r\n\n  mixed",
    "Grüße aus Köln, café près du château, mañana",
    "cafe\u0301 with a combining accent",
    "UPPER lower MiXeD 1234567 3.14",
    "punctuation?! (brackets) [x] {y} a-b_c/d\\e 'quoted' \"double\"",
    "emoji 🎉 and a family 👨‍👩‍👧 together",
    "漢字とかな 한국어 русский العربية",
    "zero\u200bwidth and no\u00a0break",
]


def byte_level(vocab_size, special_tokens):
    """A byte-level BPE in the manner of GPT-2 and Qwen: bytes first, special tokens last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in special_tokens]
    )
    return tokenizer


def byte_fallback(vocab_size):
    """A BPE over words marked by `▁` whose unknown characters fall back to bytes, as Llama 2's."""
    special = ["<unk>", "<s>", "</s>"]
    raw_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    lines = ["".join(c for c in line if c in " abcdehilnorstu") for line in CORPUS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special + raw_bytes, show_progress=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return _unmark_bytes(tokenizer)


def _unmark_bytes(tokenizer):
    """Takes the raw bytes out of the special tokens: they are ordinary entries."""
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = [t for t in value["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(value))


def _most_common(counts, size):
    """The `size` keys of the greatest count, ties in the order of the keys: the same every time."""
    return sorted(counts, key=lambda key: (-counts[key], key))[:size]


def word_piece(vocab_size):
    """A lower-casing WordPiece between [CLS] and [SEP], as BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    letters, pieces = set(), Counter()
    for line in CORPUS:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)):
            letters |= {word[0]} | {"##" + letter for letter in word[1:]}
            pieces.update(word[:end] for end in range(2, len(word) + 1))
            pieces.update("##" + word[start:] for start in range(1, len(word) - 1))
    entries = special + sorted(letters)
    entries += _most_common(pieces, vocab_size - len(entries))
    vocab = {entry: place for place, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def unigram(vocab_size):
    """A Unigram over words marked by `▁` between <s> and </s>, as XLM-RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters, pieces = Counter(), Counter()
    for word in " ".join(CORPUS).split():
        word = "▁" + word
        letters.update(word)
        spans = [(a, b) for a in range(len(word)) for b in range(a + 2, min(a + 8, len(word)) + 1)]
        pieces.update(word[start:end] for start, end in spans)
    worth = {piece: count * (len(piece) - 1) for piece, count in pieces.items() if count > 1}
    kept = sorted(letters) + _most_common(worth, vocab_size - len(special) - len(letters) - 1)
    counts = letters + pieces
    total = sum(counts[piece] for piece in kept)
    scores = [(piece, round(math.log(counts[piece] / total), 5)) for piece in kept]
    vocab = [(token, 0.0) for token in special] + scores
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.add_special_tokens(special + [AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def text_cases(path):
    """What a tokenizer.json makes of `TEXTS`: ids with special tokens, and their text without."""
    tokenizer = Tokenizer.from_file(str(path))
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
    return cases
