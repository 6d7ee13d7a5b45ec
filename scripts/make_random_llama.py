#!/usr/bin/env python3
"""Writes a random Llama of a useful size, with a working tokenizer, to measure speed with.

    .venv/bin/python scripts/make_random_llama.py --out .cache/llama-150m --params 150m --dtype bf16

Nothing it says means anything, but its shapes, files and the spread of its logits are a real
model's, and every token id decodes to some text.
"""

import argparse
import shutil
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from lib.checkpoint import random_state, save_single, write_json

VOCAB_SIZE = 32000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
EMBEDDING_SCALE = 4.0
BRANCH_SCALE = 0.5
"""A token's own embedding and what the layers add weigh about the same, so that a greedy
continuation neither repeats one token nor forgets its prompt."""

# name: hidden size, layers, heads, key/value heads, intermediate size
SHAPES = {
    "15m": (256, 8, 4, 2, 768),
    "50m": (512, 12, 8, 4, 1408),
    "150m": (768, 16, 12, 4, 2048),
    "500m": (1280, 24, 20, 4, 3584),
    "1b": (2048, 20, 32, 8, 5632),
}
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def llama_config(params, dtype):
    """config.json of one of the `SHAPES`."""
    hidden, layers, heads, kv_heads, intermediate = SHAPES[params]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": VOCAB_SIZE - 3,
        "eos_token_id": VOCAB_SIZE - 1,
        "pad_token_id": VOCAB_SIZE - 3,
        "torch_dtype": DTYPES[dtype],
    }


def weight_shapes(config):
    """Names and shapes of the tensors of a Llama with an output matrix of its own."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    head_dim = config["head_dim"]
    query = config["num_attention_heads"] * head_dim
    key = config["num_key_value_heads"] * head_dim
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (query, hidden),
            prefix + "self_attn.k_proj.weight": (key, hidden),
            prefix + "self_attn.v_proj.weight": (key, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, query),
            prefix + "mlp.gate_proj.weight": (intermediate, hidden),
            prefix + "mlp.up_proj.weight": (intermediate, hidden),
            prefix + "mlp.down_proj.weight": (hidden, intermediate),
        }
    return shapes


def letter_tokenizer():
    """A byte-level BPE that needs no training: its merges build groups of up to three letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    pairs = [(a, b) for a in letters for b in letters]
    merges = [("Ġ", a) for a in letters]
    merges += pairs
    merges += [("Ġ" + a, b) for a, b in pairs]
    merges += [(a + b, c) for a, b in pairs for c in letters]
    merges += [("Ġ" + a + b, c) for a, b in pairs for c in letters]
    merges = merges[: VOCAB_SIZE - len(alphabet) - len(SPECIAL)]
    entries = alphabet + [left + right for left, right in merges]
    vocab = {entry: place for place, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return tokenizer


def write_tokenizer(directory):
    """tokenizer.json and tokenizer_config.json with a chat template."""
    letter_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 4096,
    }
    write_json(directory / "tokenizer_config.json", config)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory, made anew")
    parser.add_argument("--params", choices=SHAPES, default="150m")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    is_other = arguments.out.exists() and not (arguments.out / "config.json").exists()
    if is_other and any(arguments.out.iterdir()):
        raise SystemExit(f"{arguments.out} holds something other than a model: give another --out")
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)

    config = llama_config(arguments.params, arguments.dtype)
    dtype = getattr(torch, DTYPES[arguments.dtype])
    state = random_state(weight_shapes(config), dtype, arguments.seed)
    for name, tensor in state.items():
        if "embed_tokens" in name:
            tensor *= EMBEDDING_SCALE
        elif "o_proj" in name or "down_proj" in name:
            tensor *= BRANCH_SCALE
    save_single(state, arguments.out)
    write_json(arguments.out / "config.json", config)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    write_json(arguments.out / "generation_config.json", {key: config[key] for key in ids})
    write_tokenizer(arguments.out)
    num_params = sum(tensor.numel() for tensor in state.values())
    print(f"{arguments.out}: {num_params / 1e6:.1f} M parameters, {arguments.dtype}")


if __name__ == "__main__":
    main()
