"""The embedding checkpoints: two families, three ways to pool, files of two generations.

Most have the files that sentence-transformers wrote until version 5; `bert-cls` has today's.
"""

import torch

from lib import tiny_tokenizers as tiny
from lib.encoders import MAX_SEQ_LENGTH, Case

HIDDEN = 32
OLD = "sentence_transformers.models."
MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "sqrt": "pooling_mode_mean_sqrt_len_tokens",
    "weighted": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def _modules(types):
    """modules.json from the types of the modules; the first is the model itself."""
    modules = []
    for place, kind in enumerate(types):
        path = f"{place}_{kind.rsplit('.', 1)[1]}" if place else ""
        modules.append({"idx": place, "name": str(place), "path": path, "type": kind})
    return modules


def _old_files(mode, *, normalize=False, prompts=None):
    """The files that sentence-transformers wrote before version 6, for one way to pool."""
    kinds = ["Transformer", "Pooling"] + (["Normalize"] if normalize else [])
    pooling = {"word_embedding_dimension": HIDDEN}
    pooling |= {key: name == mode for name, key in MODES.items()}
    files = {
        "modules.json": _modules([OLD + kind for kind in kinds]),
        "1_Pooling/config.json": pooling | {"include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": False},
    }
    if prompts:
        files["config_sentence_transformers.json"] = {
            "__version__": {"sentence_transformers": "3.0.1"},
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        }
    return files


def _new_files(mode):
    """The files that sentence-transformers 6 writes, for one way to pool."""
    return {
        "modules.json": _modules(
            [
                "sentence_transformers.base.modules.transformer.Transformer",
                "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            ]
        ),
        "1_Pooling/config.json": {
            "embedding_dimension": HIDDEN,
            "pooling_mode": mode,
            "include_prompt": True,
        },
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            "module_output_name": "token_embeddings",
        },
        "config_sentence_transformers.json": {
            "__version__": {"sentence_transformers": "6.2.0"},
            "default_prompt_name": None,
            "model_type": "SentenceTransformer",
            "prompts": {"document": "", "query": ""},
            "similarity_fn_name": "cosine",
        },
    }


def _config(family, **keys):
    """config.json of a small encoder of one family."""
    architecture = {"bert": "BertModel", "xlm-roberta": "XLMRobertaModel"}[family]
    return {
        "architectures": [architecture],
        "model_type": family,
        "vocab_size": 256,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
    } | keys


def bert_config(**keys):
    """config.json of a small BERT."""
    return _config(
        "bert",
        max_position_embeddings=140,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        pad_token_id=0,
        **keys,
    )


def bert_tokenizer_config(max_length=140):
    """tokenizer_config.json of a small BERT."""
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "model_max_length": max_length,
    }


def _bert(name, about, files, **rest):
    """A BERT; whose sentence_bert_config.json has no limit has it in tokenizer_config.json."""
    has_limit = "max_seq_length" in files["sentence_bert_config.json"]
    config = bert_config()
    tokenizer_config = bert_tokenizer_config(140 if has_limit else MAX_SEQ_LENGTH)
    return Case(name, about, config, files, lambda: tiny.word_piece(256), tokenizer_config, **rest)


def xlm_config(**keys):
    """config.json of a small XLM-RoBERTa."""
    return _config(
        "xlm-roberta",
        max_position_embeddings=130,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **keys,
    )


def xlm_tokenizer_config():
    """tokenizer_config.json of a small XLM-RoBERTa."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "model_max_length": 128,
    }


def _xlm_roberta(name, about, files, **rest):
    """An XLM-RoBERTa, whose first position is 2: 130 positions take 128 tokens."""
    config, tokenizer_config = xlm_config(), xlm_tokenizer_config()
    return Case(name, about, config, files, lambda: tiny.unigram(256), tokenizer_config, **rest)


def encoder_cases():
    """Every embedding case, in the order in which they are written; the place gives the seed."""
    prompts = {"query": "query: ", "document": "passage: "}
    return [
        _bert(
            "bert-mean",
            "mean of the tokens, not normalised; a stray embeddings.position_ids of int64",
            _old_files("mean"),
            buffers={"embeddings.position_ids": torch.arange(140)[None]},
        ),
        _bert(
            "bert-cls",
            "the first token; names of tensors begin with `bert.`; files of today's layout",
            _new_files("cls"),
            prefix="bert.",
        ),
        _xlm_roberta(
            "xlm-roberta-mean",
            "mean of the tokens, then normalised; positions begin at 2; prompts",
            _old_files("mean", normalize=True, prompts=prompts),
            prompts=("query", "document"),
        ),
        _xlm_roberta(
            "xlm-roberta-lasttoken",
            "the last token, not normalised; names of tensors begin with `roberta.`",
            _old_files("lasttoken"),
            prefix="roberta.",
        ),
    ]
