"""The engines that are compared, one per file, each with the same three functions.

`available()` says why the engine cannot run here ("" when it can), `build(job)` writes what it needs to a
folder in a process that is thrown away, `load(job)` makes it ready, and what `load` returns can `generate(n)`
tokens for every source text of the job, reading them anew each time.

No engine may stop early, or its tokens would look cheap: the end token is held back until `n` tokens are
there. Beams then run to the end as well, because a beam search only stops before it on finished beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from tbt_compile.bench.job import Job

ENGINES = {
    "torch fp32": "tbt_compile.bench.engines.torch_float",
    "torch int8 dynamic": "tbt_compile.bench.engines.torch_int8",
    "CTranslate2 int8": "tbt_compile.bench.engines.ctranslate",
    "ONNX Runtime int8": "tbt_compile.bench.engines.onnx",
    "tbt": "tbt_compile.bench.engines.compiled",
}


class Runner(Protocol):
    """A loaded model."""

    size_bytes: int

    def generate(self, count: int) -> None:
        """Read the source texts and generate exactly `count` tokens for each."""


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


def check_counts(made: Sequence[int], texts: int, count: int) -> None:
    """Raise a `RuntimeError` unless `count` tokens were made for each of `texts` texts."""
    if list(made) != [count] * texts:
        raise RuntimeError(f"{count} tokens were to be generated for each of {texts} texts, and {made} were")
