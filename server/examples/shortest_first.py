"""Shortest prompt first with ageing, as a policy for Folio in plain Python:

    folio serve --policy 'process: python3 server/examples/shortest_first.py'

docs/policy-protocol.md describes the lines. What is printed goes to Folio; use stderr to debug.
"""

import json
import sys

AGEING = 200  # prompt tokens that a second of waiting is worth

json.loads(sys.stdin.readline())  # the greeting: protocol, block_size, seed, simulated
for line in sys.stdin:
    step = json.loads(line)
    # A rank that grows with the arrival ages by itself: all grow old at the same pace.
    ranks = {one["id"]: one["prompt"] + AGEING * one["arrival_s"] for one in step["arrived"]}
    print(json.dumps({"step": step["step"], "ranks": ranks}), flush=True)
