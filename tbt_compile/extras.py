"""Optional packages, which running a compiled model does not need, and how to install them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tbt_compile.errors import MissingPackageError

_CONVERT = ("torch", "transformers", "safetensors")
_TRAIN = ("accelerate", "datasets", "psutil", "rouge_score", "sacrebleu")
_EXTRAS = (
    dict.fromkeys(_CONVERT, "convert")
    | dict.fromkeys(_TRAIN, "train")
    | {"cryptography": "sign", "gguf": "gguf", "ray": "ray", "torchao": "torchao"}
)
_USES = {
    "convert": "preparing, freezing and compiling a model needs it; `pip install 'tbt-compile[convert]'`, or "
    "'tbt-compile[train]' to train too",
    "gguf": "reading GGUF files needs it; `pip install 'tbt-compile[gguf]'`",
    "ray": "jobs on a cluster need it; `pip install 'tbt-compile[ray]'`",
    "sign": "signing a folder and checking a signature need it; `pip install 'tbt-compile[sign]'`",
    "torchao": "its PT2E flow needs it; `pip install 'tbt-compile[torchao]'`",
    "train": "training and evaluation need it; `pip install 'tbt-compile[train]'`",
}


@contextmanager
def require_extra() -> Iterator[None]:
    """Turn a failed import of an optional package into an error that says what to install.

    Raises:
        MissingPackageError: in place of the ModuleNotFoundError of an optional package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise MissingPackageError(f"{package} is not installed: {_USES[_EXTRAS[package]]}") from error
