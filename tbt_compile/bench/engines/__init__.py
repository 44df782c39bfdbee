"""The engines of the generation benchmark, with the interface `Engine`.

`available` says why an engine cannot run here, or not do the job. `build` writes the engine's files, in a
separate process. `load` returns a `Runner`, which encodes the job's source texts and generates `n` tokens for
each.

Every engine has to generate exactly `n` tokens, so the end token is suppressed until then. This also keeps
beam search running, which stops early only when beams are finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import Shape

ENGINES = {
    "torch fp32": "tbt_compile.bench.engines.torch_float",
    "torch int8 dynamic": "tbt_compile.bench.engines.torch_int8",
    "CTranslate2 int8": "tbt_compile.bench.engines.ctranslate",
    "ONNX Runtime int8": "tbt_compile.bench.engines.onnx",
    "llama.cpp Q8_0": "tbt_compile.bench.engines.llama_cpp",
    "llama.cpp Q4_0": "tbt_compile.bench.engines.llama_cpp",
    "llama.cpp TQ2_0": "tbt_compile.bench.engines.llama_cpp",
    "tbt": "tbt_compile.bench.engines.compiled",
}

_SEQ2SEQ_ONLY = ("CTranslate2 int8", "ONNX Runtime int8")
_DECODER_ONLY = ("llama.cpp Q8_0", "llama.cpp Q4_0", "llama.cpp TQ2_0")


def engines_for(shape: Shape) -> list[str]:
    """The engines that are measured with a shape."""
    others = _SEQ2SEQ_ONLY if shape.decoder_only else _DECODER_ONLY
    if shape.family == "bitnet":  # the others would hold it in full precision
        return ["llama.cpp TQ2_0", "tbt"]
    return [name for name in ENGINES if name not in others]


class Runner(Protocol):
    """A loaded model with its source texts.

    Attributes:
        size_bytes: of the model on disk.
    """

    size_bytes: int

    def generate(self, count: int) -> None:
        """Encode the source texts, or read them as prompts, and generate exactly `count` tokens for each."""


class Engine(Protocol):
    """The interface of an engine's module."""

    def available(self, job: Job) -> str:
        """The reason that the engine cannot run here, or not do the job; "" if it can."""

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
