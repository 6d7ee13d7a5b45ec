"""The decoder checkpoints: one for each thing that a reader of real checkpoints must get right.

Most config.json files have the keys of checkpoints written before transformers 5 (`torch_dtype`,
`rope_theta`, `rope_scaling`); those named `-v5` have today's (`dtype`, `rope_parameters`).
"""

from lib import tiny_tokenizers as tiny
from lib.decoders import Case

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def _config(family, **keys):
    """A small config.json of one family, in which `keys` replace or remove (None) the defaults."""
    config = {
        "architectures": [
            {"qwen2": "Qwen2", "qwen3": "Qwen3"}.get(family, family.title()) + "ForCausalLM"
        ],
        "model_type": family,
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "use_cache": True,
    } | keys
    return {key: value for key, value in config.items() if value is not None}


def _v5(rope_parameters, **keys):
    """A llama config.json with the keys that transformers 5 writes."""
    removed = {"torch_dtype": None, "rope_theta": None}
    return _config("llama", dtype="float32", rope_parameters=rope_parameters, **removed, **keys)


def _llama_cases():
    return [
        Case(
            "llama-tied",
            "tied embeddings; neither num_key_value_heads (as many as heads) nor head_dim given",
            _config(
                "llama",
                vocab_size=96,
                hidden_size=64,
                intermediate_size=96,
                num_key_value_heads=None,
                tie_word_embeddings=True,
            ),
        ),
        Case(
            "llama-gqa",
            "an own output matrix (tie_word_embeddings not given), three heads to a key/value head",
            _config(
                "llama",
                hidden_size=48,
                num_attention_heads=6,
                tie_word_embeddings=None,
                rope_theta=500000.0,
            ),
        ),
        Case(
            "llama-bias",
            "attention_bias and mlp_bias: every projection of a layer has a bias",
            _config("llama", attention_bias=True, mlp_bias=True),
        ),
        Case(
            "llama-head80",
            "head_dim 80, which is not hidden / heads; odd intermediate and vocabulary sizes",
            _config(
                "llama",
                vocab_size=99,
                hidden_size=48,
                intermediate_size=61,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=80,
                tie_word_embeddings=True,
            ),
        ),
        Case(
            "llama-sharded",
            "three shards and an index; stray rotary_emb.inv_freq tensors, to be passed over",
            _config("llama"),
            num_shards=3,
            stray={f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (4,) for i in range(2)},
        ),
        Case(
            "llama-bf16",
            "bfloat16 weights (expected: float32 arithmetic on them), head_dim 64",
            _config(
                "llama",
                hidden_size=64,
                intermediate_size=96,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=64,
                torch_dtype="bfloat16",
            ),
            dtype="bfloat16",
        ),
        Case(
            "llama-f16",
            "float16 weights (expected: float32 arithmetic on them), head_dim 128",
            _config(
                "llama",
                hidden_size=64,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=128,
                torch_dtype="float16",
                tie_word_embeddings=True,
            ),
            dtype="float16",
        ),
    ]


def _rope_cases():
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    wide = {"head_dim": 16, "num_key_value_heads": 1}
    return [
        Case(
            "llama-rope-linear",
            "linear scaling, under the old key `type`",
            _config("llama", rope_scaling={"type": "linear", "factor": 4.0}, **wide),
        ),
        Case(
            "llama-rope-linear-v5",
            "linear scaling in rope_parameters",
            _v5({"rope_type": "linear", "factor": 2.5, "rope_theta": 5000.0}, **wide),
        ),
        Case(
            "llama-rope-llama3",
            "llama3 scaling with frequencies below, between and above both bounds",
            _config("llama", rope_scaling=llama3, rope_theta=1000.0, **wide),
        ),
        Case(
            "llama-rope-yarn",
            "yarn with its defaults: beta_fast 32, beta_slow 1, attention factor from the factor",
            _config("llama", rope_scaling=yarn, max_position_embeddings=256, **wide),
        ),
        Case(
            "llama-rope-yarn-v5",
            "yarn with beta_fast, beta_slow and attention_factor given, in rope_parameters",
            _v5(
                yarn
                | {
                    "rope_theta": 1000.0,
                    "beta_fast": 8.0,
                    "beta_slow": 0.5,
                    "attention_factor": 1.25,
                },
                max_position_embeddings=256,
                **wide,
            ),
        ),
    ]


def _family_cases():
    qwen = {"rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
    ids = {"bos_token_id": 277, "eos_token_id": 279}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return [
        Case(
            "mistral-window",
            "a sliding window of 16 in every layer; a tokenizer that falls back to bytes",
            _config(
                "mistral", vocab_size=288, sliding_window=16, head_dim=16, num_key_value_heads=1
            ),
            tokenizer=lambda: tiny.byte_fallback(288),
            tokenizer_config={
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "add_bos_token": True,
                "add_eos_token": False,
                "legacy": False,
                "model_max_length": 512,
            },
        ),
        Case(
            "qwen2",
            "biases on q, k and v only; a sliding_window that use_sliding_window turns off",
            _config(
                "qwen2", sliding_window=16, use_sliding_window=False, max_window_layers=1, **qwen
            ),
        ),
        Case(
            "qwen2-window",
            "a sliding window of 16 from layer max_window_layers = 1 on, none below",
            _config(
                "qwen2", sliding_window=16, use_sliding_window=True, max_window_layers=1, **qwen
            ),
        ),
        Case(
            "qwen3",
            "norms on q and k, head_dim 16; byte-level tokenizer smaller than the vocabulary; "
            "chat template; two end tokens in generation_config.json",
            _config("qwen3", vocab_size=288, head_dim=16, tie_word_embeddings=True, **qwen, **ids),
            tokenizer=lambda: tiny.byte_level(280, special),
            tokenizer_config={
                "tokenizer_class": "Qwen2Tokenizer",
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "add_prefix_space": False,
                "chat_template": CHATML,
                "model_max_length": 512,
            },
            generation={"eos_token_id": [279, 277], "pad_token_id": 277},
        ),
    ]


def decoder_cases():
    """Every decoder case, in the order in which they are written; the place gives the seed."""
    return _llama_cases() + _rope_cases() + _family_cases()
