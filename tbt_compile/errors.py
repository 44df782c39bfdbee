"""The exceptions that this package raises on purpose; all derive from `TbtError`.

Each message says what is wrong, what was expected, and what to do about it. `TbtError` is a `ValueError`,
which code that does not know this package can catch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class TbtError(ValueError):
    """Base class of the errors of this package."""


class MissingPackageError(TbtError, ImportError):
    """An optional package is needed and not installed; see `tbt_compile.extras`."""


class RecipeError(TbtError):
    """A recipe does not parse, or one of its fields is unknown or out of range."""


class CaptureError(TbtError):
    """A model could not be captured as a graph, usually because its example inputs do not fit."""


class PlanError(TbtError):
    """A model has nothing to quantize, or is not in the state (prepared, trained) that a step needs."""


class TargetError(TbtError):
    """A compilation target is unknown, or cannot run on this machine."""


class FormatError(TbtError):
    """A saved folder is missing, truncated or altered, or has another format version."""


class WriteError(FormatError, OSError):
    """A file or folder cannot be written: no space, no permission, a bad path; `errno` says which."""


class LoweringError(TbtError):
    """A frozen model holds an operation that has no compiled operator."""


class DataError(TbtError):
    """A data file or dataset cannot be read."""


class ReproduceError(TbtError):
    """A table or figure of the paper cannot be made with the given options."""


class InputError(TbtError):
    """A compiled module was called with inputs that do not fit its signature."""


class MethodError(TbtError):
    """A training method is unknown, or does not support the requested bits."""


class GenerationError(TbtError):
    """The arguments of a generation do not fit the model or contradict each other."""


_NEAR_MATCHES = 3
MAX_NAMES = 4
"""Names that an error lists."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return a hint for an error about an unknown name: its near matches, or "" if there are none.

    Matches with the same letters in another order come first.

    >>> did_you_mean("cortex-a27", ["cortex-a78", "cortex-a72", "haswell"])
    ' Did you mean cortex-a72 or cortex-a78?'
    """
    matches = get_close_matches(wrong, list(known), n=4 * _NEAR_MATCHES, cutoff=0.6)
    matches = sorted(matches, key=lambda name: sorted(name) != sorted(wrong))[:_NEAR_MATCHES]
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """The first names for an error about many, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class ServingError(TbtError):
    """A request to a service cannot be answered."""
