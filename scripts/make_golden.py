#!/usr/bin/env python3
"""Writes the golden fixtures of tests/golden: small checkpoints and what Hugging Face computes.

    .venv/bin/python scripts/make_golden.py              # all of the checked-in fixtures
    .venv/bin/python scripts/make_golden.py --only qwen  # those with `qwen` in their name
    scripts/fetch_minilm.sh && .venv/bin/python scripts/make_golden.py --minilm

tests/golden/README.md says what the files hold. The same versions give the same files; other
versions of torch may change the last digits of an expected value.
"""

import argparse
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402
from transformers.utils import logging  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=GOLDEN, help="where the fixtures go")
    parser.add_argument("--only", default="", help="write cases whose name has this in it")
    parser.add_argument("--minilm", action="store_true", help="write the MiniLM values instead")
    parser.add_argument("--minilm-dir", type=Path, default=ROOT / ".cache" / "minilm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.minilm:
        from lib.minilm import write_minilm

        write_minilm(arguments.minilm_dir, arguments.out / "minilm" / "expected.json")
        return
    write_decoders(arguments)
    write_encoders(arguments)
    write_cross_encoders(arguments)
    if arguments.only in "chat_templates":
        from lib.chats import write_chats

        counts = write_chats(arguments.out / "chat_templates" / "cases.json")
        print("chat_templates: {} rendered, {} refused".format(*counts))


def write_decoders(arguments):
    """The decoder cases; the margin printed is the least gap of any greedy step."""
    from lib.decoder_cases import decoder_cases
    from lib.decoders import write_case

    for number, case in enumerate(decoder_cases()):
        if arguments.only in case.name:
            start = time.monotonic()
            margin = write_case(case, arguments.out, seed=1000 + number)
            print(f"{case.name}: margin {margin:.4f}, {time.monotonic() - start:.1f} s", flush=True)


def write_encoders(arguments):
    """The embedding cases; the difference printed is what padding moved any embedding by."""
    from lib.encoder_cases import encoder_cases
    from lib.encoders import write_case

    for number, case in enumerate(encoder_cases()):
        if arguments.only in case.name:
            difference = write_case(case, arguments.out, seed=2000 + number)
            print(f"{case.name}: padding difference {difference:.1e}", flush=True)


def write_cross_encoders(arguments):
    """The cross-encoder cases; the least and the largest score are printed."""
    from lib.cross_encoders import cross_cases, write_case

    for number, case in enumerate(cross_cases()):
        if arguments.only in case[0]:
            least, largest = write_case(case, arguments.out, seed=3000 + number)
            print(f"{case[0]}: scores from {least:.4f} to {largest:.4f}", flush=True)


if __name__ == "__main__":
    main()
