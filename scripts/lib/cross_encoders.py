"""Golden values of cross-encoders: what transformers' classifiers of one label say of pairs."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from lib import tiny_tokenizers as tiny
from lib.checkpoint import random_state, save_single, write_json, write_rows
from lib.encoder_cases import bert_config, bert_tokenizer_config, xlm_config, xlm_tokenizer_config

QUERIES = ("how do blocks work?", "Le café", "a")
MAX_DOCUMENTS = 5
HEAD_SCALE = 4.0
"""Weights of the head are so much larger than others, so that scores differ."""

IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"


def cross_cases():
    """Name, what it shows, configuration, tokenizer and its configuration of each case."""
    one_label = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    bert = bert_config(architectures=["BertForSequenceClassification"], **one_label)
    bert["sbert_ce_default_activation_function"] = IDENTITY
    xlm = xlm_config(architectures=["XLMRobertaForSequenceClassification"], **one_label)
    xlm["sentence_transformers"] = {"activation_fn": SIGMOID, "version": "5.0.0"}
    return [
        (
            "cross-bert",
            "pooler and classifier, token types, the logit itself",
            bert,
            lambda: tiny.word_piece(256),
            bert_tokenizer_config(),
        ),
        (
            "cross-xlm-roberta",
            "dense and out_proj, no token types, sigmoid of the logit",
            xlm,
            lambda: tiny.unigram(256),
            xlm_tokenizer_config(),
        ),
    ]


@torch.no_grad()
def write_case(case, root, seed):
    """Writes one case below `root`; returns the least and the largest score."""
    name, about, config, tokenizer, tokenizer_config = case
    directory = Path(root) / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_json(directory / "config.json", config)
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    tokenizer().save(str(directory / "tokenizer.json"))
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(directory)
        )
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = random_state(shapes, torch.float32, seed)
    for key in state:
        if "classifier" in key or "pooler" in key:
            state[key] = state[key] * HEAD_SCALE
    save_single(state, directory)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).double()
    encoder = tiny.Tokenizer.from_file(str(directory / "tokenizer.json"))
    has_types = config["type_vocab_size"] > 1
    rows = []
    for query in QUERIES:
        for document in tiny.TEXTS[:MAX_DOCUMENTS]:
            encoding = encoder.encode(query, document)
            types = {"token_type_ids": torch.tensor([encoding.type_ids])} if has_types else {}
            logits = model(input_ids=torch.tensor([encoding.ids]), **types).logits
            assert logits.shape == (1, 1)
            score = logits[0, 0] if "bert" == config["model_type"] else logits[0, 0].sigmoid()
            rows.append(
                {
                    "texts": [query, document],
                    "ids": encoding.ids,
                    "types": encoding.type_ids,
                    "score": score.item(),
                }
            )
    write_rows(directory / "expected.json", {"case": name, "about": about, "pairs": rows})
    scores = [row["score"] for row in rows]
    return min(scores), max(scores)
