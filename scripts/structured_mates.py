#!/usr/bin/env python3
"""Measures what structured requests cost those that run beside them.

    scripts/structured_mates.py http://127.0.0.1:8000/v1 [MODEL] [--rounds 9]

Eight plain completions run beside eight others, plain in one half of a round and bound to a schema
in the other, in turns. Prints the ratio of the times of the first eight, bound beside plain.
"""

import argparse
import json
import statistics
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

NUM_EACH = 8
NUM_TOKENS = 200
ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
SHAPE = {"type": "json_schema", "json_schema": {"name": "items", "strict": True, "schema": {
    "type": "array", "items": ITEM, "minItems": 200}}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("model", nargs="?", default="folio-tiny")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    def seconds(body):
        request = urllib.request.Request(
            args.url + "/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        begin = time.monotonic()
        with urllib.request.urlopen(request, timeout=300) as response:
            used = json.load(response)["usage"]["completion_tokens"]
        assert used == body["max_tokens"], used
        return time.monotonic() - begin

    def run(fields):
        plain = [{"model": args.model, "prompt": f"tell me {i}", "ignore_eos": True, "seed": i,
                  "max_tokens": NUM_TOKENS} for i in range(NUM_EACH)]
        mates = [{**body, **fields, "max_tokens": NUM_TOKENS + 60} for body in plain]
        with ThreadPoolExecutor(2 * NUM_EACH) as pool:
            mates = [pool.submit(seconds, body) for body in mates]
            plain = [pool.submit(seconds, body) for body in plain]
            return [statistics.mean(one.result() for one in many) for many in (plain, mates)]

    kinds = [{}, {"response_format": SHAPE}]
    for fields in kinds:
        run(fields)
    ratios = []
    for index in range(args.rounds):
        order = [0, 1] if index % 2 else [1, 0]
        times = {kind: run(kinds[kind]) for kind in order}
        ratios.append([bound / free for free, bound in zip(times[0], times[1])])
    beside, itself = zip(*ratios)
    print(f"beside structured / beside plain: median {statistics.median(beside):.3f} of "
          + " ".join(f"{ratio:.2f}" for ratio in sorted(beside)))
    print(f"structured / plain: median {statistics.median(itself):.3f}")


if __name__ == "__main__":
    main()
