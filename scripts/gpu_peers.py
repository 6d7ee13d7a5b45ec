#!/usr/bin/env python3
"""Measures what others reach on the GPU at the shapes that `gpu_kernels` and `throughput` use.

    python3 scripts/gpu_peers.py --json peers.jsonl          # all that is installed
    python3 scripts/gpu_peers.py --device cpu --tiny         # shows that the script runs

torch gives the roofs (a copy, a large product), the products of real models and attention by
`scaled_dot_product_attention`; FlashInfer, where it can be imported, attention over pages;
transformers generates with random weights, statically and by continuous batching;
it also embeds with a random encoder of e5-large's shape, as sentence-transformers does. A kernel's time is that of
one call in a queue of them; whole programs are timed once after a warm-up. Prints JSON lines.
"""

import argparse
import json
import sys
import time

import torch

PRODUCTS = [
    ("8B qkv", 6144, 4096),
    ("8B output", 4096, 4096),
    ("8B gate_up", 28672, 4096),
    ("8B down", 4096, 14336),
    ("8B logits", 128256, 4096),
    ("0.6B qkv", 4096, 1024),
    ("0.6B gate_up", 6144, 1024),
    ("0.6B down", 1024, 3072),
]
PRODUCT_ROWS = (1, 8, 16, 32, 64, 128, 256, 2048)
HEADS = [("8B", 32, 8, 128), ("0.6B", 16, 8, 128)]
DECODES = ((1, 1024), (1, 16384), (8, 8192), (32, 1024), (64, 1024), (64, 4096), (256, 1024))
PREFILLS = ((1, 2048), (4, 2048), (1, 8192), (16, 512))
PAGE_SIZE = 16
ROTATED_BYTES = 256 << 20


class Bench:
    """Times calls on one device and prints what they took."""

    def __init__(self, arguments):
        self.device = arguments.device
        self.tiny = arguments.tiny
        self.file = open(arguments.json, "w") if arguments.json else None

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def micros(self, call):
        """Microseconds of a call in the fastest of several queues of them."""
        call(0)
        self.synchronize()
        count, best, index, queues = 4, float("inf"), 0, 0
        while queues < (1 if self.tiny else 6):
            start = time.perf_counter()
            for _ in range(count):
                call(index)
                index += 1
            self.synchronize()
            seconds = time.perf_counter() - start
            if seconds < 0.004 and count < 2048 and not self.tiny:
                count *= 2
                continue
            best = min(best, seconds / count)
            queues += 1
        return best * 1e6

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16)

    def report(self, kernel, shape, micros, num_bytes=0, flops=0):
        seconds = micros * 1e-6
        self.print(
            {
                "kernel": kernel,
                "shape": shape,
                "micros": micros,
                "gigabytes_per_s": num_bytes / seconds * 1e-9,
                "tflops": flops / seconds * 1e-12,
            }
        )

    def print(self, line):
        print(json.dumps(line), flush=True)
        if self.file:
            print(json.dumps(line), file=self.file, flush=True)


def roofs(bench):
    num_bytes = 1 << (12 if bench.tiny else 30)
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    micros = bench.micros(lambda _: target.copy_(source))
    bench.report("torch copy", f"{num_bytes} bytes", micros, num_bytes=2 * num_bytes)
    side = 64 if bench.tiny else 8192
    a, b = bench.random(side, side), bench.random(side, side)
    micros = bench.micros(lambda _: a @ b)
    bench.report("torch product", f"{side}^3", micros, flops=2 * side**3)


def products(bench):
    for name, cols, inner in PRODUCTS[: 1 if bench.tiny else None]:
        if bench.tiny:
            cols, inner = 48, 64
        count = 1 if bench.tiny else -(-ROTATED_BYTES // (cols * inner * 2))
        weights = bench.random(count, cols, inner)
        for rows in PRODUCT_ROWS[: 2 if bench.tiny else None]:
            x = bench.random(rows, inner)
            micros = bench.micros(lambda i: torch.nn.functional.linear(x, weights[i % count]))
            num_bytes = 2 * (cols * inner + rows * inner + rows * cols)
            shape = f"{name} {rows} x {cols} x {inner}"
            bench.report("torch linear", shape, micros, num_bytes, 2 * rows * cols * inner)


def attention(bench):
    for name, heads, kv_heads, size in HEADS[: 1 if bench.tiny else None]:
        for rows, keys in ((2, 40),) if bench.tiny else DECODES:
            q = bench.random(rows, heads, 1, size)
            k, v = bench.random(rows, kv_heads, keys, size), bench.random(rows, kv_heads, keys, size)
            attend = torch.nn.functional.scaled_dot_product_attention
            micros = bench.micros(lambda _: attend(q, k, v, enable_gqa=True))
            num_bytes = rows * keys * 2 * kv_heads * size * 2
            bench.report("torch sdpa decode", f"{name} {rows} x {keys} keys", micros, num_bytes)
        for rows, tokens in ((2, 40),) if bench.tiny else PREFILLS:
            q = bench.random(rows, heads, tokens, size)
            k = bench.random(rows, kv_heads, tokens, size)
            v = bench.random(rows, kv_heads, tokens, size)
            micros = bench.micros(lambda _: attend(q, k, v, is_causal=True, enable_gqa=True))
            flops = 4 * rows * tokens * (tokens + 1) // 2 * heads * size
            shape = f"{name} {rows} x {tokens} tokens"
            bench.report("torch sdpa prefill", shape, micros, flops=flops)


def flashinfer(bench):
    import flashinfer

    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=bench.device)
    for name, heads, kv_heads, size in HEADS:
        for rows, keys in DECODES:
            pages = keys // PAGE_SIZE
            decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                workspace, "HND", use_tensor_cores=True
            )
            indptr = torch.arange(rows + 1, dtype=torch.int32, device=bench.device) * pages
            order = torch.randperm(rows * pages, device=bench.device).int()
            last = torch.full((rows,), PAGE_SIZE, dtype=torch.int32, device=bench.device)
            decode.plan(
                indptr, order, last, heads, kv_heads, size, PAGE_SIZE, q_data_type=torch.bfloat16
            )
            cache = bench.random(rows * pages, 2, kv_heads, PAGE_SIZE, size)
            q = bench.random(rows, heads, size)
            micros = bench.micros(lambda _: decode.run(q, cache))
            num_bytes = rows * keys * 2 * kv_heads * size * 2
            shape = f"{name} {rows} x {keys} keys"
            bench.report("flashinfer decode", shape, micros, num_bytes)


def generation(bench):
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tiny = bench.tiny
    config = LlamaConfig(
        vocab_size=128256 if not tiny else 256,
        hidden_size=4096 if not tiny else 64,
        intermediate_size=14336 if not tiny else 128,
        num_hidden_layers=32 if not tiny else 2,
        num_attention_heads=32 if not tiny else 4,
        num_key_value_heads=8 if not tiny else 2,
        max_position_embeddings=8192,
    )
    with torch.device(bench.device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    rows, prompt_len, output_len = (32, 1000, 64) if not tiny else (2, 8, 4)
    prompts = torch.randint(10, config.vocab_size, (rows, prompt_len), device=bench.device)
    greedy = GenerationConfig(
        max_new_tokens=output_len, do_sample=False, eos_token_id=None, pad_token_id=0
    )

    def static():
        with torch.inference_mode():
            model.generate(
                prompts, attention_mask=torch.ones_like(prompts), generation_config=greedy
            )

    def continuous():
        with torch.inference_mode():
            model.generate_batch(inputs=prompts.tolist(), generation_config=greedy)

    shape = f"8B {rows} x {prompt_len}/{output_len}"
    for kind, run in (("static", static), ("continuous", continuous)):
        if kind == "continuous" and bench.device == "cpu":
            continue
        measure_program(bench, f"transformers {kind}", shape, run, rows * output_len)


def embedding(bench):
    from transformers import XLMRobertaConfig, XLMRobertaModel

    tiny = bench.tiny
    config = XLMRobertaConfig(
        vocab_size=250002 if not tiny else 256,
        hidden_size=1024 if not tiny else 64,
        intermediate_size=4096 if not tiny else 128,
        num_hidden_layers=24 if not tiny else 2,
        num_attention_heads=16 if not tiny else 4,
        max_position_embeddings=514,
    )
    model = XLMRobertaModel(config).eval().to(bench.device, torch.bfloat16)
    rows, tokens = (256, 256) if not tiny else (2, 8)
    ids = torch.randint(10, config.vocab_size, (rows, tokens), device=bench.device)

    def run():
        with torch.inference_mode():
            hidden = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            torch.nn.functional.normalize(hidden.mean(1), dim=-1).float().cpu()

    measure_program(bench, "transformers e5-large", f"{rows} x {tokens}", run, rows * tokens)


def measure_program(bench, name, shape, run, num_tokens):
    """Times one run after another for warm-up; what it cannot run is said, not hidden."""
    try:
        run()
        bench.synchronize()
        start = time.perf_counter()
        run()
        bench.synchronize()
    except Exception as error:  # a peer that fails is a result
        bench.print({"program": name, "shape": shape, "failed": f"{type(error).__name__}: {error}"})
        return
    seconds = time.perf_counter() - start
    rate = num_tokens / seconds
    bench.print({"program": name, "shape": shape, "seconds": seconds, "tokens_per_s": rate})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, once each")
    parser.add_argument("--json", help="write the lines to this file too")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    roofs(bench)
    products(bench)
    attention(bench)
    if arguments.device == "cuda":
        try:
            flashinfer(bench)
        except ImportError as error:
            bench.print({"kernel": "flashinfer decode", "skipped": str(error)})
    generation(bench)
    embedding(bench)


if __name__ == "__main__":
    sys.exit(main())
