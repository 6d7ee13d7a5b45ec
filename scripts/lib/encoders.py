"""Golden values of embedding models: what sentence-transformers pools from token ids and texts."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel

from lib import tiny_tokenizers as tiny
from lib.checkpoint import random_state, save_single, save_tensors, write_json, write_rows

INPUT_LENGTHS = (1, 2, 5, 17, 33, 64, 100, 128)
MAX_SEQ_LENGTH = 128
MAX_PADDING_DIFFERENCE = 2e-5
"""How far an embedding from a padded batch may be from the one computed alone, in float32."""

LONG_TEXT = " ".join(tiny.CORPUS)
PROMPTED_TEXTS = ("how do blocks work?", "Le café près du château")


@dataclass
class Case:
    """One embedding checkpoint: what it shows, its files, and its tokenizer."""

    name: str
    about: str
    config: dict
    files: dict  # relative path -> JSON value: the sentence-transformers files
    tokenizer: object  # a function that makes one
    tokenizer_config: dict
    prefix: str = ""  # what stands before each name of a tensor
    buffers: dict = field(default_factory=dict)  # tensors that no model reads
    prompts: tuple = ()  # names of prompts to check


def write_case(case, root, seed):
    """Writes one case below `root`; returns how far padding moved an embedding."""
    directory = Path(root) / case.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _write_checkpoint(case, directory, seed)
    model = SentenceTransformer(
        str(directory),
        device="cpu",
        model_kwargs={"attn_implementation": "eager", "dtype": torch.float32},
    )
    inputs = _inputs(case.config, torch.Generator().manual_seed(seed))
    alone = torch.stack([_embed(model, [ids])[0] for ids in inputs])
    difference = (_embed(model, inputs) - alone).abs().max().item()
    assert difference < MAX_PADDING_DIFFERENCE, f"padding moves an embedding by {difference}"
    texts, embeddings = _texts(case, model, directory)
    save_tensors(
        {"inputs.embeddings": alone, "texts.embeddings": embeddings},
        directory / "expected.safetensors",
    )
    rows = [{"ids": ids} for ids in inputs]
    expected = {"case": case.name, "about": case.about, "inputs": rows, "texts": texts}
    write_rows(directory / "expected.json", expected)
    return difference


def _write_checkpoint(case, directory, seed):
    """The model, the tokenizer and the files that say how to pool."""
    write_json(directory / "config.json", case.config)
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(directory))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = random_state(shapes, torch.float32, seed)
    state = {case.prefix + name: tensor for name, tensor in state.items()} | case.buffers
    save_single(state, directory)
    case.tokenizer().save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", case.tokenizer_config)
    for path, value in case.files.items():
        write_json(directory / path, value)


def _inputs(config, generator):
    """Token ids of several lengths; those of two or more begin and end as the tokenizer's do."""
    first, last = (2, 3) if config["model_type"] == "bert" else (0, 2)
    inputs = []
    for length in INPUT_LENGTHS:
        ids = torch.randint(5, config["vocab_size"] - 1, (length,), generator=generator).tolist()
        if length > 1:
            ids[0], ids[-1] = first, last
        inputs.append(ids)
    return inputs


@torch.no_grad()
def _embed(model, inputs):
    """Embeddings [N, H] of lists of token ids in one batch, padded on the right."""
    longest = max(len(ids) for ids in inputs)
    pad = model.tokenizer.pad_token_id
    features = {
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids in inputs]),
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * (longest - len(ids)) for ids in inputs]
        ),
    }
    return model(features)["sentence_embedding"]


def _texts(case, model, directory):
    """Texts with their ids and embeddings, the last plain one longer than the model takes."""
    wanted = [(text, None) for text in (*tiny.TEXTS, LONG_TEXT)]
    wanted += [(text, name) for name in case.prompts for text in PROMPTED_TEXTS]
    tokenizer = tiny.Tokenizer.from_file(str(directory / "tokenizer.json"))
    rows, embeddings = [], []
    for text, prompt_name in wanted:
        prompt = model.prompts[prompt_name] if prompt_name else ""
        ids = model.preprocess([prompt + text])["input_ids"][0].tolist()
        whole = tokenizer.encode(prompt + text).ids
        assert ids == whole or len(whole) > MAX_SEQ_LENGTH, (text, ids, whole)
        row = {"text": text, "ids": ids}
        if prompt_name:
            row["prompt_name"] = prompt_name
        if len(whole) > MAX_SEQ_LENGTH:
            row["truncated_from"] = len(whole)
        rows.append(row)
        vector = model.encode(text, prompt_name=prompt_name, convert_to_tensor=True)
        assert (vector - _embed(model, [ids])[0]).abs().max() < MAX_PADDING_DIFFERENCE
        embeddings.append(vector)
    return rows, torch.stack(embeddings)
