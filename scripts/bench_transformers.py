#!/usr/bin/env python3
"""Measures the offline throughput of Hugging Face transformers on the CPU, to compare with.

    .venv/bin/python scripts/bench_transformers.py --model .cache/llama-150m --mode static
    .venv/bin/python scripts/bench_transformers.py --model .cache/llama-150m --mode continuous

`static` calls `generate` on batches of prompts of one length; `continuous` calls `generate_batch`,
which schedules over a paged cache. Prompts are random token ids from the seed, decoding is greedy,
and no end token stops a request, so that each gives exactly --output-len tokens. Loading and one
short warm-up are not timed. Prints one line of JSON.
"""

import argparse
import json
import os
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig  # noqa: E402

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
WARM_UP_TOKENS = 4


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a model directory")
    parser.add_argument("--mode", choices=("static", "continuous"), default="static")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--num-requests", type=int, default=64)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, help="static: requests at once (default: all)")
    parser.add_argument("--page-size", type=int, default=32, help="continuous: tokens a page")
    parser.add_argument(
        "--max-batch-tokens", type=int, default=2048, help="continuous: tokens a step, at most"
    )
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    return parser.parse_args()


def generation_config(output_len):
    """Greedy, exactly `output_len` tokens: without an end token nothing stops early."""
    return GenerationConfig(
        max_new_tokens=output_len,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        bos_token_id=None,
        use_cache=True,
    )


def run_static(model, prompts, arguments):
    """Token ids that `generate` gives, batch after batch."""
    size = arguments.batch_size or len(prompts)
    outputs = []
    for start in range(0, len(prompts), size):
        batch = torch.tensor(prompts[start : start + size])
        config = generation_config(arguments.output_len)
        whole = model.generate(
            batch, attention_mask=torch.ones_like(batch), generation_config=config
        )
        outputs += whole[:, batch.shape[1] :].tolist()
    return outputs


def run_continuous(model, prompts, arguments):
    """Token ids that `generate_batch` gives, with room in the paged cache for every request."""
    pages = -(-(arguments.input_len + arguments.output_len + 1) // arguments.page_size)
    config = ContinuousBatchingConfig(
        page_size=arguments.page_size,
        num_blocks=(pages + 1) * len(prompts) + 1,
        max_batch_tokens=arguments.max_batch_tokens,
        max_requests_per_batch=len(prompts),
        allow_block_sharing=False,
    )
    results = model.generate_batch(
        prompts,
        generation_config=generation_config(arguments.output_len),
        continuous_batching_config=config,
        warmup=False,
    )
    failed = [result.error for result in results.values() if result.error]
    if failed or len(results) != len(prompts):
        raise SystemExit(
            f"{len(results)} of {len(prompts)} requests came back; errors: {failed[:3]}"
        )
    return [result.generated_tokens for result in results.values()]


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=DTYPES[arguments.dtype], attn_implementation=arguments.attention
    ).eval()
    model.generation_config = GenerationConfig()
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (arguments.num_requests, arguments.input_len)
    prompts = torch.randint(0, model.config.vocab_size - 3, shape, generator=generator).tolist()
    run = {"static": run_static, "continuous": run_continuous}[arguments.mode]

    short = argparse.Namespace(**vars(arguments) | {"output_len": WARM_UP_TOKENS})
    run(model, prompts[:2], short)
    start = time.perf_counter()
    outputs = run(model, prompts, arguments)
    seconds = time.perf_counter() - start

    lengths = {len(output) for output in outputs}
    if lengths != {arguments.output_len}:
        raise SystemExit(f"expected {arguments.output_len} tokens a request, got {sorted(lengths)}")
    num_output = sum(len(output) for output in outputs)
    num_total = num_output + arguments.num_requests * arguments.input_len
    report = {
        "mode": arguments.mode,
        "dtype": arguments.dtype,
        "attention": model.config._attn_implementation,
        "threads": arguments.threads,
        "num_requests": arguments.num_requests,
        "input_len": arguments.input_len,
        "output_len": arguments.output_len,
        "seconds": round(seconds, 3),
        "output_tokens": num_output,
        "output_tokens_per_s": round(num_output / seconds, 2),
        "total_tokens_per_s": round(num_total / seconds, 2),
        "distinct_tokens": len({token for output in outputs for token in output}),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
