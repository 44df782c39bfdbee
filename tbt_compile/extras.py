"""Packages that a device which runs compiled models does not need, and what to install for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tbt_compile.errors import MissingPackageError

_CONVERT = ("torch", "transformers", "safetensors")
_TRAIN = ("accelerate", "datasets", "rouge_score", "sacrebleu")
_EXTRAS = dict.fromkeys(_CONVERT, "convert") | dict.fromkeys(_TRAIN, "train")
_USES = {
    "convert": "preparing, freezing and compiling a model needs it; `pip install 'tbt-compile[convert]'`, or "
    "'tbt-compile[train]' to train too",
    "train": "training and evaluation need it; `pip install 'tbt-compile[train]'`",
}


@contextmanager
def require_extra() -> Iterator[None]:
    """Say what to install where the import of an optional package fails.

    Raises:
        MissingPackageError: in place of its ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise MissingPackageError(f"{package} is not installed: {_USES[_EXTRAS[package]]}") from error
