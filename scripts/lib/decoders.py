"""Golden values of decoder models: logits of every position, and greedy continuations."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from lib import tiny_tokenizers as tiny
from lib.checkpoint import (
    DTYPES,
    random_state,
    save_sharded,
    save_single,
    save_tensors,
    write_json,
    write_rows,
)

PROMPT_LENGTHS = (1, 7, 40, 120)
NUM_GREEDY = 32
NUM_CANDIDATES = 96
MIN_MARGIN = 0.02
"""Prompts are chosen so that no greedy step is closer to a tie than this, where one is found."""

MAX_CACHE_DIFFERENCE = 2e-4
"""How far logits with a cache may be from those without, in float32."""


@dataclass
class Case:
    """One checkpoint: what it shows, its config.json, and how its files are written."""

    name: str
    about: str
    config: dict
    dtype: str = "float32"
    num_shards: int = 1
    stray: dict = field(default_factory=dict)  # name -> shape of tensors that no model reads
    tokenizer: object = None  # a function that makes one
    tokenizer_config: dict = field(default_factory=dict)
    generation: dict = field(default_factory=dict)


def write_case(case, root, seed):
    """Writes one case below `root`; returns the least margin of its greedy steps."""
    directory = Path(root) / case.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _write_checkpoint(case, directory, seed)
    model = _load(directory, case)
    generator = torch.Generator().manual_seed(seed)
    prompts = [_golden_prompt(model, length, generator) for length in PROMPT_LENGTHS]
    logits = {f"prompt{i}.logits": p.pop("logits") for i, p in enumerate(prompts)}
    save_tensors(logits, directory / "expected.safetensors")
    expected = {"case": case.name, "about": case.about, "prompts": prompts}
    if case.tokenizer:
        expected["texts"] = tiny.text_cases(directory / "tokenizer.json")
    write_rows(directory / "expected.json", expected)
    return min(min(p["margins"]) for p in prompts)


def _write_checkpoint(case, directory, seed):
    """config.json, generation_config.json, the weights and, where there is one, the tokenizer."""
    write_json(directory / "config.json", case.config)
    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    shapes.update(case.stray)
    state = random_state(shapes, DTYPES[case.dtype], seed)
    if case.num_shards > 1:
        save_sharded(state, directory, case.num_shards)
    else:
        save_single(state, directory)
    generation = {key: case.config[key] for key in ("bos_token_id", "eos_token_id")}
    write_json(directory / "generation_config.json", generation | case.generation)
    if case.tokenizer:
        tokenizer = case.tokenizer()
        assert tokenizer.get_vocab_size() <= case.config["vocab_size"], tokenizer.get_vocab_size()
        tokenizer.save(str(directory / "tokenizer.json"))
        write_json(directory / "tokenizer_config.json", case.tokenizer_config)


def _load(directory, case):
    """The checkpoint as Hugging Face transformers reads it, in float32 on the CPU."""
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"], report
    assert set(report["unexpected_keys"]) <= set(case.stray), report
    model.generation_config = GenerationConfig()
    return model.eval()


@torch.no_grad()
def _greedy(model, ids, num_tokens):
    """Greedy continuations [N, num_tokens] of prompts [N, T], with the margin of each step."""
    tokens, margins, cache, step = [], [], None, ids
    for _ in range(num_tokens):
        output = model(step, cache=cache, use_cache=True)
        top = output.logits[:, -1].topk(2)
        step, cache = top.indices[:, :1], output.cache
        tokens.append(step)
        margins.append(top.values[:, :1] - top.values[:, 1:])
    return torch.cat(tokens, 1), torch.cat(margins, 1)


@torch.no_grad()
def _golden_prompt(model, length, generator):
    """A prompt whose greedy steps are clear, its logits [T, V] and its continuation."""
    shape = (NUM_CANDIDATES, length)
    vocab = model.config.vocab_size
    candidates = torch.randint(3, vocab, shape, generator=generator)
    if length == 1:
        candidates = torch.randperm(vocab - 3, generator=generator)[:NUM_CANDIDATES, None] + 3
    tokens, margins = _greedy(model, candidates, NUM_GREEDY)
    clearness = margins.min(1).values
    variety = torch.tensor([len(set(row.tolist())) for row in tokens])
    clear = (clearness >= MIN_MARGIN).float()
    best = int((clear * 1000 + clear * variety + (1 - clear) * clearness).argmax())
    ids = candidates[best : best + 1]
    tokens, margins = _greedy(model, ids, NUM_GREEDY)
    logits = model(ids, use_cache=False).logits[0]
    _check_cache(model, ids, tokens)
    return {
        "ids": ids[0].tolist(),
        "greedy": tokens[0].tolist(),
        "margins": [round(margin, 6) for margin in margins[0].tolist()],
        "logits": logits.contiguous(),
    }


def _check_cache(model, ids, tokens):
    """The whole sequence at once and token by token through the cache must agree."""
    whole = torch.cat([ids, tokens], 1)
    at_once = model(whole, use_cache=False).logits[0]
    cache, rows = None, []
    for position in range(whole.shape[1]):
        output = model(whole[:, position : position + 1], cache=cache, use_cache=True)
        cache = output.cache
        rows.append(output.logits[0, -1])
    difference = (torch.stack(rows) - at_once).abs().max().item()
    assert difference < MAX_CACHE_DIFFERENCE, f"cache and no cache differ by {difference}"
    chosen = at_once[ids.shape[1] - 1 : -1].argmax(-1)
    assert torch.equal(chosen, tokens[0]), "greedy without a cache differs"
