"""Random checkpoints in the layout of Hugging Face model directories.

Weights are drawn so that every part of a model matters to its output: norms and biases are not
one and zero, queries and keys are wide enough for attention to depend on position, and logits
spread over several units.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_json(path, value):
    """Writes `value` as readable JSON with a final newline, creating the folders on the way."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def random_weight(name, shape, generator):
    """One weight as float64, scaled by the part it plays, which its name tells.

    A projection of `fan_in` inputs of variance one has outputs of variance gain squared.
    """
    if "norm" in name.lower() and name.endswith("weight"):
        return generator.uniform(0.5, 1.5, shape)
    if name.endswith("bias"):
        return generator.normal(0.0, 0.3, shape)
    if "embed" in name:
        return generator.normal(0.0, 0.35, shape)
    gain = 1.0
    if any(part in name for part in ("q_proj", "k_proj", "query", "key")):
        gain = 1.5
    if "lm_head" in name:
        gain = 3.0
    return generator.normal(0.0, gain / np.sqrt(shape[-1]), shape)


def random_state(shapes, dtype, seed):
    """Random tensors of a torch `dtype` for a dict of names to shapes; the seed decides all."""
    generator = np.random.default_rng(seed)
    state = {}
    for name in sorted(shapes):
        values = random_weight(name, tuple(shapes[name]), generator)
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float32)).to(dtype)
    return state


def save_tensors(tensors, path):
    """Writes one safetensors file that everyone may read, as git would check it out."""
    save_file(tensors, path, metadata={"format": "pt"})
    Path(path).chmod(0o644)


def save_sharded(state, directory, num_shards):
    """Writes the tensors to `model-0000i-of-0000n.safetensors` and the index beside them."""
    names = sorted(state)
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: state[name] for name in names[shard::num_shards]}
        weight_map.update({name: file for name in part})
        save_tensors(part, directory / file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / "model.safetensors.index.json", index)


def save_single(state, directory):
    """Writes all tensors to `model.safetensors`."""
    save_tensors(state, directory / "model.safetensors")


def write_rows(path, value):
    """JSON with one line a list of numbers, so that a changed golden reads well in a diff."""
    lists = {}

    def mark(value):
        if isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
            key = f"@list{len(lists)}@"
            lists[f'"{key}"'] = json.dumps(value)
            return key
        if isinstance(value, list):
            return [mark(item) for item in value]
        if isinstance(value, dict):
            return {key: mark(item) for key, item in value.items()}
        return value

    text = json.dumps(mark(value), indent=2, ensure_ascii=False)
    for key, value in lists.items():
        text = text.replace(key, value, 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
