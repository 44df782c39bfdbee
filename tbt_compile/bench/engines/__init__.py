"""The engines that are compared, one per file, each with the same three functions.

`available()` says why the engine cannot run here ("" when it can), `build(job)` writes what it needs to a
folder in a process that is thrown away, `load(job)` makes it ready, and what `load` returns can `generate(n)`
tokens greedily from the source text, reading it anew each time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from tbt_compile.bench.job import Job

ENGINES = {
    "torch fp32": "tbt_compile.bench.engines.torch_float",
    "torch int8 dynamic": "tbt_compile.bench.engines.torch_int8",
    "CTranslate2 int8": "tbt_compile.bench.engines.ctranslate",
    "tbt": "tbt_compile.bench.engines.compiled",
}


class Runner(Protocol):
    """A loaded model."""

    size_bytes: int

    def generate(self, count: int) -> None:
        """Read the source text and generate exactly `count` tokens."""


class Engine(Protocol):
    """One module of this package."""

    def available(self) -> str:
        """Why the engine cannot run here, or ""."""

    def build(self, job: Job) -> None:
        """Write to `job.folder` what `load` needs."""

    def load(self, job: Job) -> Runner:
        """Make the model ready to generate."""


def get_engine(name: str) -> Engine:
    """The engine called `name` in `ENGINES`."""
    engine: Engine = import_module(ENGINES[name])
    return engine
