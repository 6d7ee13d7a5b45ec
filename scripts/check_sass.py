#!/usr/bin/env python3
"""Holds compiled kernels to what their sources claim, from the machine code itself.

    scripts/check_sass.py [--table] FATBIN...

No kernel may use local memory (spills, arrays that are not in registers). On sm_90a, where a kernel
may start while the one before it finishes, each must wait, and before it changes global memory (what
it reads before, such as weights, no kernel may have just written). Lines of a source such as

    // sass gemm_*: registers<=168 HMMA LDSM LDGSTS
    // sass gemm_*@sm_90a: HGMMA

claim, for the kernels that the pattern names, a budget of registers and opcodes that must occur
(any part of an opcode will do). --table prints kernel by kernel what was found, as Markdown.
scripts/check_kernels compiles the kernels and runs this.
"""

import argparse
import fnmatch
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("HMMA", "LDSM", "LDGSTS")
LOCAL_MEMORY = ("LDL", "STL")
CHANGES_GLOBAL_MEMORY = ("STG", "ST.", "ATOM.", "ATOMG", "RED.", "REDG", "UTMASTG", "UTMARED")
# How griddepcontrol.wait looks in machine code, and where it is there.
WAIT, OVERLAPPING = "ACQBULK", "sm_90a"

ARCH = re.compile(r"^arch = (\w+)")
RESOURCES = re.compile(r"^ Function (\w+):")
USAGE = re.compile(r"(REG|STACK|SHARED|LOCAL):(\d+)")
FUNCTION = re.compile(r"^\s*Function : (\w+)")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?\w+\s+)?([A-Z][\w.]*)")
CLAIM = re.compile(r"^// sass ([^\s@:]+)(?:@(\w+))?:(.*)$")
BUDGET = re.compile(r"^registers<=(\d+)$")


@dataclass
class Kernel:
    """What one kernel became for one architecture."""

    name: str
    arch: str
    usage: dict[str, int] = field(default_factory=dict)
    opcodes: Counter = field(default_factory=Counter)
    changes_memory_at_once: bool = False

    def add(self, opcode):
        """Takes the next instruction."""
        if opcode.startswith(CHANGES_GLOBAL_MEMORY) and not self.opcodes[WAIT]:
            self.changes_memory_at_once = True
        self.opcodes[opcode] += 1

    def count(self, prefix):
        """How many instructions have an opcode that begins so."""
        return sum(n for opcode, n in self.opcodes.items() if opcode.startswith(prefix))


@dataclass
class Claim:
    """One `// sass` line."""

    pattern: str
    arch: str | None
    max_registers: int | None
    opcodes: list[str]
    place: str

    def covers(self, kernel):
        """Whether it speaks of this kernel."""
        return fnmatch.fnmatchcase(kernel.name, self.pattern) and self.arch in (None, kernel.arch)


def cuobjdump(option, fatbin):
    """Lines that cuobjdump prints about a fatbin."""
    home = os.environ.get("CUDA_HOME") or str(ROOT / ".cache/cuda/nvidia/cu13")
    environment = os.environ | {"PATH": f"{home}/bin:{os.environ['PATH']}"}
    command = [f"{home}/bin/cuobjdump", option, str(fatbin)]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def read_kernels(fatbin):
    """Every kernel of a fatbin for every architecture that it has machine code for."""
    kernels, arch, name = {}, None, None
    for line in cuobjdump("--dump-resource-usage", fatbin):
        if match := ARCH.match(line):
            arch = match[1]
        elif match := RESOURCES.match(line):
            name = match[1]
        elif name and (usage := USAGE.findall(line)):
            kernel = kernels.setdefault((name, arch), Kernel(name, arch))
            kernel.usage = {key: int(value) for key, value in usage}
            name = None
    for line in cuobjdump("--dump-sass", fatbin):
        if match := ARCH.match(line):
            arch = match[1]
        elif match := FUNCTION.match(line):
            name = match[1]
        elif match := INSTRUCTION.match(line):
            kernels[name, arch].add(match[1])
    return [kernels[key] for key in sorted(kernels)]


def read_claims(source):
    """The `// sass` lines of a source."""
    claims = []
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if not (match := CLAIM.match(line)):
            continue
        words = match[3].split()
        budgets = [int(found[1]) for word in words if (found := BUDGET.match(word))]
        opcodes = [word for word in words if not BUDGET.match(word)]
        place = f"{source.relative_to(ROOT)}:{number}"
        if bad := [word for word in opcodes if not re.fullmatch(r"[A-Z][A-Z0-9.]*", word)]:
            raise SystemExit(f"{place}: `{bad[0]}` is neither a budget nor an opcode")
        claims.append(Claim(match[1], match[2], min(budgets, default=None), opcodes, place))
    return claims


def failures(kernels, claims):
    """What is wrong, a sentence each."""
    for kernel in kernels:
        where = f"{kernel.name} on {kernel.arch}"
        stack = kernel.usage["STACK"] + kernel.usage["LOCAL"]
        accesses = sum(kernel.count(opcode) for opcode in LOCAL_MEMORY)
        if stack or accesses:
            yield f"{where}: {stack} bytes of local memory, {accesses} instructions that use it"
        if kernel.arch == OVERLAPPING and not kernel.opcodes[WAIT]:
            yield f"{where}: wait_for_previous_kernel() is missing"
        elif kernel.arch == OVERLAPPING and kernel.changes_memory_at_once:
            yield f"{where}: changes global memory before wait_for_previous_kernel()"
        for claim in claims:
            if not claim.covers(kernel):
                continue
            registers = kernel.usage["REG"]
            if claim.max_registers is not None and registers > claim.max_registers:
                yield f"{where}: {registers} registers; {claim.place} allows {claim.max_registers}"
            for opcode in claim.opcodes:
                if not any(opcode in found for found in kernel.opcodes):
                    yield f"{where}: no {opcode}, which {claim.place} claims"
    for claim in claims:
        if not any(claim.covers(kernel) for kernel in kernels):
            yield f"{claim.place}: no kernel is called `{claim.pattern}`"


def print_table(kernels):
    """One row a kernel and architecture, as Markdown."""
    print("| kernel | arch | registers | static shared | instructions |", " | ".join(COLUMNS), "|")
    print("|---|---|" + "---:|" * (3 + len(COLUMNS)))
    for kernel in kernels:
        cells = [kernel.name, kernel.arch, kernel.usage["REG"], kernel.usage["SHARED"]]
        cells += [kernel.opcodes.total()] + [kernel.count(column) for column in COLUMNS]
        print("|", " | ".join(map(str, cells)), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true", help="print what was found")
    parser.add_argument("fatbins", nargs="+", type=Path)
    arguments = parser.parse_args()
    all_kernels, wrong = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(read_kernels, arguments.fatbins)
    for fatbin, kernels in zip(arguments.fatbins, found, strict=True):
        if not kernels:
            wrong.append(f"{fatbin}: no kernel in it")
        claims = read_claims(ROOT / "kernels/cuda" / f"{fatbin.stem}.cu")
        wrong += failures(kernels, claims)
        all_kernels += kernels
    if arguments.table:
        print_table(all_kernels)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    names, arches = {k.name for k in all_kernels}, {k.arch for k in all_kernels}
    print(f"{len(names)} kernels for {len(arches)} architectures: {len(wrong)} wrong", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
