"""The engines of the generation benchmark, one module each, with the interface `Engine`.

`available` says why an engine cannot run here. `build` writes the engine's files, in a separate process.
`load` returns a `Runner`, which encodes the job's source texts and generates `n` tokens for each.

Every engine has to generate exactly `n` tokens, so the end token is suppressed until then. This also keeps
beam search running, which stops early only when beams are finished.
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
    """A loaded model with its source texts.

    Attributes:
        size_bytes: of the model on disk.
    """

    size_bytes: int

    def generate(self, count: int) -> None:
        """Encode the source texts and generate exactly `count` tokens for each."""


class Engine(Protocol):
    """The interface of an engine's module."""

    def available(self) -> str:
        """The reason that the engine cannot run here; "" if it can."""

    def build(self, job: Job) -> None:
        """Write the files that `load` needs to `job.folder`."""

    def load(self, job: Job) -> Runner:
        """Load the model, ready to generate."""


def get_engine(name: str) -> Engine:
    """The engine called `name` in `ENGINES`."""
    engine: Engine = import_module(ENGINES[name])
    return engine


def check_counts(made: Sequence[int], texts: int, count: int) -> None:
    """Check that an engine generated exactly the requested tokens.

    Args:
        made: tokens generated for each text.
        texts: number of texts.
        count: requested tokens per text.

    Raises:
        RuntimeError: it did not.
    """
    if list(made) != [count] * texts:
        raise RuntimeError(f"expected {count} tokens for each of {texts} texts, the engine generated {made}")
