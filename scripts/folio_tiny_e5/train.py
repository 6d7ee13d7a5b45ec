"""Trains folio-tiny-e5 from nothing and writes it as a sentence-transformers directory.

    python scripts/folio_tiny_e5/train.py --out server/builtin/folio-tiny-e5

The tokeniser is learned from generated text, then the encoder by a symmetric contrastive loss: in a
batch of pairs, made of small groups that differ in one slot, each text must find its partner among
all the others.
"""

import argparse
import json
import math
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import XLMRobertaConfig, XLMRobertaModel

from data import (
    COMMON_KANJI,
    LANGUAGES,
    SLOT,
    World,
    add_prefixes,
    compatible,
    draw_group,
    draw_hour,
    draw_name,
    fill,
)

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PAD_ID = 1
MAX_LENGTH = 512
TEMPERATURE = 0.05
GROUP_SIZE = 4
WARMUP_STEPS = 60
WORD_STEPS = 0.15  # the first steps, this share of all, see many bare words: a cheap start
CUT = "|"  # marks a place that no piece of the tokeniser may span, in its training text only
CHUNKS = 12  # forward passes a batch, each of texts of a like length


def train_tokenizer(world, rng, vocab_size):
    """A Unigram tokeniser of the XLM-RoBERTa kind, learned from generated sentences."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    cuts = pre_tokenizers.Split(CUT, "removed")
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cuts, words])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        unk_token="<unk>",
        max_piece_length=12,
        initial_alphabet=[
            chr(c)
            for first, last in (("!", "~"), ("ぁ", "ん"), ("ァ", "ヶ"), ("、", "。"), ("ー", "ー"))
            for c in range(ord(first), ord(last) + 1)
            if not chr(c).isupper()
        ]
        + COMMON_KANJI,
    )
    tokenizer.train_from_iterator(tokenizer_corpus(world, rng), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def tokenizer_corpus(world, rng, num_sentences=12_000):
    """Sentences in both languages with both prefixes, every word by itself, and made-up names.

    Japanese has no spaces, so its sentences are cut where a slot begins or ends and before kanji
    and katakana that follow hiragana; otherwise frequent runs of words would become pieces. The
    trainer takes as a piece only what is part of two different strings between cuts, so each word
    is also shown with some punctuation or particle.
    """
    for _ in range(num_sentences):
        meaning = world.draw_meaning(rng)
        for language in LANGUAGES:
            wordings = list(world.frames[meaning.frame].wordings[language][:-1])
            wordings += [
                w for q in world.frames[meaning.frame].questions for w in q.wordings[language]
            ]
            body = fill(
                rng, rng.choice(wordings), meaning, language, CUT if language == "ja" else ""
            )
            yield rng.choice(("query: ", "passage: ", "")) + cut_japanese(body)
    for _ in range(5_000):
        yield " ".join(draw_name(rng)[0]["ja"] + draw_hour(rng)[0]["en"])
    english, japanese = all_words(world)
    yield from (f"{word}; {word}! {word}, ({word})" for word in english for _ in range(3))
    yield from (
        CUT.join(word + mark for mark in ("", "は", "を", "が", "、"))
        for word in japanese
        for _ in range(3)
    )


def cut_japanese(text):
    """The text with cuts around 、 and 。 and wherever hiragana ends."""
    return re.sub(
        r"(?<=[ぁ-ん])(?=[一-龥ァ-ヶA-Za-z0-9])|(?=[、。])|(?<=[、。])|(?<=[ぁ-ん])(?=[?!])",
        CUT,
        text,
    )


def all_words(world):
    """Every English word, and every Japanese run between cuts, of frames and concepts."""
    texts = {
        language: [
            synonym
            for concepts in world.concepts.values()
            for words, _ in concepts
            for synonym in words[language]
        ]
        for language in LANGUAGES
    }
    for frame in world.frames.values():
        for source in [frame] + frame.questions:
            for language in LANGUAGES:
                texts[language] += [SLOT.sub(CUT, wording) for wording in source.wordings[language]]
    english = {word for text in texts["en"] for word in re.findall(r"[A-Za-z]+", text)} | {
        "query",
        "passage",
    }
    japanese = {run for text in texts["ja"] for run in cut_japanese(text).split(CUT) if run}
    return sorted(english), sorted(japanese)


def build_model(args, vocab_size):
    """An untrained XLM-RoBERTa encoder."""
    config = XLMRobertaConfig(
        vocab_size=vocab_size,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.intermediate,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD_ID,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.02,
    )
    return XLMRobertaModel(config)


def embed(model, tokenizer, texts, rng):
    """Unit embeddings of the texts by mean pooling, [len(texts), hidden].

    Texts are run in chunks of like length. Positions start at a random offset now and then, so that
    every position is trained although most texts are short.
    """
    ids = [encoding.ids[:MAX_LENGTH] for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    size = math.ceil(len(order) / CHUNKS)
    pooled = [None] * len(ids)
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        longest = max(len(ids[i]) for i in chunk)
        tokens = torch.tensor([ids[i] + [PAD_ID] * (longest - len(ids[i])) for i in chunk])
        mask = tokens != PAD_ID
        offset = rng.randrange(MAX_LENGTH - longest + 1) if rng.random() < 0.4 else 0
        positions = torch.where(mask, torch.arange(longest) + PAD_ID + 1 + offset, PAD_ID)
        hidden = model(
            input_ids=tokens, attention_mask=mask.long(), position_ids=positions
        ).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        means = (hidden * weights).sum(1) / weights.sum(1)
        for row, index in enumerate(chunk):
            pooled[index] = means[row]
    return torch.nn.functional.normalize(torch.stack(pooled), dim=-1)


def not_negatives(texts):
    """[n, n] True where two texts must not be pushed apart: one says all that the other does."""
    blocked = torch.eye(len(texts), dtype=torch.bool)
    by_topic = {}
    for index, text in enumerate(texts):
        for fact in text.facts:
            for item in fact:
                if item[0] in ("frame", "concept"):
                    by_topic.setdefault(item, set()).add(index)
    for members in by_topic.values():
        for i in members:
            for j in members:
                if i < j and compatible(texts[i], texts[j]):
                    blocked[i, j] = blocked[j, i] = True
    return blocked


def contrastive_loss(embeddings, texts):
    """InfoNCE over a batch whose first half holds the partners of its second half, in order."""
    count = len(texts)
    scores = embeddings @ embeddings.T / TEMPERATURE
    partner = (torch.arange(count) + count // 2) % count
    blocked = not_negatives(texts)
    blocked[torch.arange(count), partner] = False
    return torch.nn.functional.cross_entropy(scores.masked_fill(blocked, -1e4), partner)


def learning_rate(step, args):
    """Linear warm-up, then a cosine down to zero."""
    if step < WARMUP_STEPS:
        return args.rate * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, args.steps - WARMUP_STEPS)
    return args.rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model, args):
    """AdamW; norms and biases without weight decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))


def train(model, tokenizer, world, args):
    """Runs the training steps and prints the loss now and then."""
    rng = random.Random(args.seed + 1)
    optimizer, start, recent = make_optimizer(model, args), time.time(), []
    model.train()
    for step in range(args.steps):
        share = 0.5 if step < WORD_STEPS * args.steps else 0.12
        pairs = [
            pair
            for _ in range(args.batch // GROUP_SIZE)
            for pair in draw_group(world, rng, GROUP_SIZE, share)
        ]
        bodies = [add_prefixes(rng, pair) for pair in pairs]
        texts = [first for first, _ in pairs] + [second for _, second in pairs]
        embeddings = embed(model, tokenizer, [b[0] for b in bodies] + [b[1] for b in bodies], rng)
        loss = contrastive_loss(embeddings, texts)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 25 == 0:
            print(
                f"step {step + 1}/{args.steps} loss {sum(recent) / len(recent):.3f} "
                f"{time.time() - start:.0f} s",
                flush=True,
            )
            recent = []
        if args.snapshots and (step + 1) % args.snapshots == 0:
            export(model, tokenizer, args.out.resolve())


def write_json(path, value):
    """Writes a JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(model, tokenizer, out):
    """Writes the model directory: built aside, then put in place of `out` whole."""
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=".folio-tiny-e5-"))
    work.chmod(0o755)
    tensors = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    save_file(tensors, work / "model.safetensors", metadata={"format": "pt"})
    (work / "model.safetensors").chmod(0o644)
    config = model.config.to_dict()
    config.update(architectures=["XLMRobertaModel"], torch_dtype="bfloat16")
    for key in ("dtype", "_name_or_path", "_attn_implementation"):
        config.pop(key, None)
    write_json(work / "config.json", dict(sorted(config.items())))
    tokenizer.save(str(work / "tokenizer.json"))
    names = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    write_json(work / "special_tokens_map.json", names)
    write_json(
        work / "tokenizer_config.json",
        {
            **names,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_LENGTH,
            "clean_up_tokenization_spaces": False,
        },
    )
    write_sentence_transformers(work, model.config.hidden_size)
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)


def write_sentence_transformers(work, hidden):
    """The files that tell sentence-transformers, and Folio, how tokens become one unit vector."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write_json(
        work / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    write_json(
        work / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(
        work / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False}
    )
    write_json(
        work / "config_sentence_transformers.json",
        {
            "prompts": {"query": "query: ", "passage": "passage: ", "document": "passage: "},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def parse_arguments():
    """The command line; the defaults train the shipped model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--batch", type=int, default=160, help="pairs a step")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--intermediate", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=9500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--snapshots", type=int, default=0, help="also write the model every so many steps"
    )
    parser.add_argument("--seed", type=int, default=20)
    return parser.parse_args()


def main():
    """Tokeniser, training, export."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    world = World()
    tokenizer = train_tokenizer(world, random.Random(args.seed), args.vocab)
    model = build_model(args, tokenizer.get_vocab_size())
    num_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"vocabulary {tokenizer.get_vocab_size()}, {num_parameters / 1e6:.2f} M parameters",
        flush=True,
    )
    train(model, tokenizer, world, args)
    export(model, tokenizer, args.out.resolve())
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
