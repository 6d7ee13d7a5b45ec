"""Trains folio-tiny from nothing and exports it as a Hugging Face directory. See README.md."""

import argparse
import json
import math
import random
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from chats import first_chat, plain_text, sample_chat
from encoding import (
    CHAT_TEMPLATE, END, END_OF_TEXT, SPECIAL, Batch, Encoder, Sample, draw_samples, make_batch,
    make_batches, train_tokenizer,
)

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "server" / "builtin" / "folio-tiny"
MAX_POSITIONS = 1024
FIRST_SHARE = 0.15  # of the tokens come from `first_chat`


def parse_arguments() -> argparse.Namespace:
    """Command-line arguments; the defaults reproduce the shipped model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=5_200_000,
        help="training tokens, each seen once")
    parser.add_argument("--tokens-per-step", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=3e-3,
        help="peak rate of AdamW (embeddings and norms)")
    parser.add_argument("--matrix-rate", type=float, default=1e-2,
        help="peak rate of Muon (weight matrices); 0 uses AdamW for all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--vocab", type=int, default=3072)
    parser.add_argument("--out", type=Path, default=TARGET)
    return parser.parse_args()


def model_config(vocab_size: int) -> LlamaConfig:
    """The shape of folio-tiny: 2.5 million parameters, three query heads per key/value head."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=192, intermediate_size=640, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-5,
        max_position_embeddings=MAX_POSITIONS, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )


def tokenizer_texts(seed: int, num_chats: int = 30_000):
    """The texts the tokenizer is trained on: chats as for the model, from another seed."""
    rng = random.Random(seed)
    for _ in range(num_chats):
        for message in sample_chat(rng).messages:
            yield message["role"] + "\n"
            yield message["content"]
    for _ in range(num_chats // 30):
        yield plain_text(rng)


def make_optimizers(
    model: torch.nn.Module, rate: float, matrix_rate: float
) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings and norms; Muon for the weight matrices unless `matrix_rate` is zero."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    if matrix_rate == 0:
        return [torch.optim.AdamW(matrices + others, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)]
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.05,
        adjust_lr_fn="match_rms_adamw")
    return [adam, muon]


def rate_factor(step: int, num_steps: int) -> float:
    """Warm-up over the first thirtieth, then a half cosine down to one hundredth."""
    warmup = max(1, num_steps // 30)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the tokens that count; logits are computed for those tokens only."""
    counts = batch.targets != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.ids, attention_mask=batch.mask(), position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[counts])
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets[counts])


def train(model: LlamaForCausalLM, batches: list, args: argparse.Namespace) -> None:
    """One pass over the batches."""
    optimizers = make_optimizers(model, args.learning_rate, args.matrix_rate)
    base_rates = [o.param_groups[0]["lr"] for o in optimizers]
    started, recent = time.monotonic(), []
    for step, (rows, length) in enumerate(batches):
        for optimizer, base in zip(optimizers, base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate_factor(step, len(batches))
        loss = batch_loss(model, make_batch(rows, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            mean = sum(recent) / len(recent)
            print(f"step {step + 1}/{len(batches)} loss {mean:.4f} {seconds:.0f} s", flush=True)
            recent.clear()


def write_json(path: Path, value: dict) -> None:
    """Writes a value as readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json and a tokenizer_config.json that holds the chat template."""
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "special_tokens_map.json", {"bos_token": END_OF_TEXT, "eos_token": END,
        "pad_token": END_OF_TEXT})
    added = {
        str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                 "single_word": False, "special": True}
        for i, t in enumerate(SPECIAL)
    }
    write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": added, "bos_token": END_OF_TEXT, "eos_token": END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False, "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    })


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, target: Path) -> None:
    """Writes the model in bf16 beside `target`, then swaps it in: readers never see half of it."""
    fresh, stale = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    for directory in (fresh, stale):
        shutil.rmtree(directory, ignore_errors=True)
    fresh.mkdir(parents=True)
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=[2, 0], pad_token_id=0, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(fresh)
    (fresh / "model.safetensors").chmod(0o644)
    config = json.loads((fresh / "config.json").read_text(encoding="utf-8"))
    config["rope_theta"] = 10000.0  # where older readers look for it
    write_json(fresh / "config.json", config)
    write_tokenizer(tokenizer, fresh)
    if target.exists():
        target.rename(stale)
    fresh.rename(target)
    shutil.rmtree(stale, ignore_errors=True)


def draw_parts(encoder: Encoder, args: argparse.Namespace) -> list[list[Sample]]:
    """The samples in training order: short computing chats, then all kinds."""
    num_first = int(args.tokens * FIRST_SHARE)
    first = draw_samples(encoder, num_first, args.seed + 2, first_chat)
    return [first, draw_samples(encoder, args.tokens - num_first, args.seed, sample_chat)]


def main() -> None:
    """Trains and exports."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.monotonic()
    tokenizer = train_tokenizer(tokenizer_texts(args.seed + 1), args.vocab)
    model = LlamaForCausalLM(model_config(tokenizer.get_vocab_size()))
    parts = draw_parts(Encoder(tokenizer), args)
    batches = []
    for part in parts:
        batches += make_batches(part, args.tokens_per_step, args.seed)
    samples = [sample for part in parts for sample in part]
    counted = sum(sum(s.written) for s in samples)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {len(samples):,} samples, {counted:,} trained tokens, "
          f"{len(batches)} steps, data after {time.monotonic() - started:.0f} s", flush=True)
    train(model.train(), batches, args)
    export(model.eval(), tokenizer, args.out)
    print(f"exported to {args.out} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
