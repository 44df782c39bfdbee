"""Random inputs to every parser and loader: each is accepted, or refused by a `TbtError`.

    python examples/benchmarks/fuzz.py
    python examples/benchmarks/fuzz.py --inputs 2000 --only manifests gguf --seed 7 --json fuzz.json

Inputs are right ones with a few changes: recipes, targets, generation settings, manifests with a right
checksum, files of tensors, tokenizers, chat templates, keys, configs, safetensors and GGUF files, JSON
lines, arguments of commands, and requests to `tbt serve`, which may be answered by no 5xx. A fault is any
other exception, or an input that keeps it busy too long; the exit status is then 1. Each input has a
number, and `--only NAME --first NUMBER --inputs 1` repeats it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz_surfaces import SHARES, SURFACES, Surface

from tbt_compile.errors import TbtError

SHOWN = 5
SECONDS = 30
"""That an input may take."""


class TooLongError(BaseException):
    """An input took too long; no `Exception`, which what is fuzzed may catch."""


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise `TooLongError` where the block is after `SECONDS`."""

    def stop(*_: object) -> None:
        raise TooLongError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(surface: Surface, chance: Random) -> tuple[str, str]:
    """Give a surface one input; returns what came of it, and what went wrong."""
    try:
        with limited_time():
            surface(chance)
    except TbtError as error:
        sentence = str(error)
        return ("refused", "") if sentence.strip() else ("fault", "an error without a sentence")
    except (Exception, TooLongError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "fault",
            f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})",
        )
    return "accepted", ""


def run(name: str, folder: Path, numbers: range, seed: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """Give a surface many inputs.

    Args:
        name: of the surface.
        folder: to work in.
        numbers: of the inputs.
        seed: of all.

    Returns:
        How often what came of it, how often each fault, and the first faults with their numbers.
    """
    surface = SURFACES[name](folder)
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    first = []
    try:
        for number in numbers:
            kind, fault = outcome(surface, Random(f"{seed} {name} {number}"))
            counts[kind] += 1
            if fault:
                faults[fault] += 1
                if faults[fault] == 1:
                    first.append(f"{number}: {fault}")
    finally:
        getattr(surface, "close", lambda: None)()
    return counts, faults, first


def main() -> None:
    """Fuzz every surface, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="of all surfaces together")
    parser.add_argument("--only", nargs="+", choices=sorted(SURFACES), help="these surfaces only")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    names = arguments.only or list(SURFACES)
    whole = sum(SHARES[name] for name in names)
    result: dict[str, Any] = {}
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        start = time.perf_counter()
        try:
            count = -(-arguments.inputs * SHARES[name] // whole)
            numbers = range(arguments.first, arguments.first + count)
            counts, faults, first = run(name, folder, numbers, arguments.seed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        seconds = round(time.perf_counter() - start, 1)
        result[name] = {**counts, "seconds": seconds, "faults": dict(faults), "first": first}
        print(f"{name}: {dict(counts)} in {seconds} s", *first[:SHOWN], sep="\n  ", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    total = sum(
        each
        for found in result.values()
        for kind, each in found.items()
        if kind in ("accepted", "refused", "fault")
    )
    wrong = sum(sum(found["faults"].values()) for found in result.values())
    print(f"{total} inputs, {wrong} faults")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
