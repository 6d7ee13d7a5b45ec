"""Fair shares between tenants, short and cached prompts first within them, with numpy:

    folio serve --policy 'process: cached=on python3 server/examples/policy.py'

Keeps a table of what waits and runs, and ranks all of it in each step. docs/policy-protocol.md
describes the lines.
"""

import json
import sys

import numpy as np

AGEING = 200.0  # tokens that a second of waiting is worth
COLUMNS = ["arrival_s", "tenant", "prompt", "cached"]


class Table:
    """One row for each sequence; rows of those that ended are used again."""

    def __init__(self):
        self.rows = {}
        self.free = []
        self.ids = np.zeros(64, dtype=np.int64)
        self.values = np.zeros((64, len(COLUMNS)))

    def add(self, one):
        if not self.free:
            used = len(self.rows)
            if used == len(self.ids):
                self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)])
                self.values = np.concatenate([self.values, np.zeros_like(self.values)])
            self.free = list(range(used, len(self.ids)))
        row = self.free.pop()
        self.rows[one["id"]] = row
        self.ids[row] = one["id"]
        self.values[row] = [one["arrival_s"], one["tenant"], one["prompt"], 0]

    def remove(self, sequence):
        row = self.rows.pop(sequence, None)
        if row is not None:
            self.free.append(row)


def main():
    table, service, tenants = Table(), {}, {}
    json.loads(sys.stdin.readline())  # the greeting
    for line in sys.stdin:
        step = json.loads(line)
        for one in step["arrived"]:
            table.add(one)
            tenants[one["id"]] = one["tenant"]
            service.setdefault(one["tenant"], min(service.values(), default=0.0))
        for sequence, tokens in step["cached"]:
            if sequence in table.rows:
                table.values[table.rows[sequence], COLUMNS.index("cached")] = tokens
        for sequence, tokens in step["granted"].items():
            if (tenant := tenants.get(int(sequence))) is not None:
                service[tenant] += tokens
        for sequence, _ in step["finished"]:
            table.remove(sequence)
            tenants.pop(sequence, None)

        rows = np.fromiter(table.rows.values(), dtype=np.int64, count=len(table.rows))
        arrival, tenant, prompt, cached = table.values[rows].T
        served = np.array([service[int(one)] for one in tenant])
        ranks = served + (prompt - cached) - AGEING * (step["now_s"] - arrival)
        order = table.ids[rows[np.argsort(ranks, kind="stable")]]
        print(json.dumps({"step": step["step"], "order": order.tolist()}), flush=True)


main()
