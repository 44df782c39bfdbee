"""As `fuzz.py`, led by coverage: atheris looks for choices that reach new lines of the package.

    pip install atheris
    python examples/benchmarks/fuzz_coverage.py recipes --seconds 60 --json coverage.json

What `fuzz.py` draws at random are here the bytes that atheris changes. A fault ends the run with its
traceback, and the bytes are kept in a file, crash-...; exit status 77 is atheris' own for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Chosen(Random):
    """Random numbers that are read from bytes, and 0 once those are used up."""

    def __new__(cls, _content: bytes) -> Chosen:
        return super().__new__(cls)

    def __init__(self, content: bytes) -> None:
        super().__init__(0)
        self._content, self._place = content, 0

    def getrandbits(self, k: int, /) -> int:
        """The next bits."""
        count = -(-k // 8)
        taken = self._content[self._place : self._place + count]
        self._place += count
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """The next two bytes, as a number from 0 to 1."""
        return self.getrandbits(16) / 2**16


def main() -> None:
    """Fuzz one surface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("surface", help="one of those of fuzz.py")
    parser.add_argument("--seconds", type=int, default=60, help="for how long")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    import atheris

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["tbt_compile"]):
        from fuzz_surfaces import SURFACES

        from tbt_compile.errors import TbtError
    surface: Any = SURFACES[arguments.surface](Path(tempfile.mkdtemp(prefix="fuzz-")))
    counts: Counter[str] = Counter()

    def one(content: bytes) -> None:
        try:
            surface(Chosen(content))
            counts["accepted"] += 1
        except TbtError:
            counts["refused"] += 1
        if arguments.json and sum(counts.values()) % 1000 == 0:  # atheris ends the process itself
            arguments.json.write_text(json.dumps(counts) + "\n")

    atheris.Setup([sys.argv[0], f"-max_total_time={arguments.seconds}", "-max_len=256"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
