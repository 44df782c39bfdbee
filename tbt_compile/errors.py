"""The errors that a user can meet, all of them `TbtError`.

Each message names the thing that is wrong, what was expected, and what to do about it. `TbtError` is a
`ValueError`, so that code which does not know this package can still catch it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TbtError(ValueError):
    """Base of every error raised on purpose by this package."""


class MissingPackageError(TbtError, ImportError):
    """Something was asked for that needs a package which is not installed; see `tbt_compile.extras`."""


class RecipeError(TbtError):
    """A recipe or one of its fields cannot be understood."""


class CaptureError(TbtError):
    """A model could not be captured as a graph (usually: example inputs that do not fit it)."""


class PlanError(TbtError):
    """A model has nothing to quantize, or is not in the state that was asked for."""


class TargetError(TbtError):
    """A compilation target is unknown, or cannot run on this machine."""


class FormatError(TbtError):
    """A saved folder is missing, truncated, altered, or of another format version."""


class LoweringError(TbtError):
    """A frozen model holds something that has no compiled operator."""


class DataError(TbtError):
    """A data file or data set cannot be read."""


class ReproduceError(TbtError):
    """A table or figure of the paper was asked for in a way that it cannot be made."""


class InputError(TbtError):
    """A compiled module was called with inputs that it does not take."""


class MethodError(TbtError):
    """A training method is unknown, or does not support the bits that are asked for."""


class GenerationError(TbtError):
    """Generation was asked for with arguments that do not fit the model or each other."""


_NEAR_MATCHES = 3


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: near matches, or nothing. Swapped letters come first.

    >>> did_you_mean("cortex-a27", ["cortex-a78", "cortex-a72", "haswell"])
    ' Did you mean cortex-a72 or cortex-a78?'
    """
    matches = get_close_matches(wrong, list(known), n=4 * _NEAR_MATCHES, cutoff=0.6)
    matches = sorted(matches, key=lambda name: sorted(name) != sorted(wrong))[:_NEAR_MATCHES]
    return f" Did you mean {' or '.join(matches)}?" if matches else ""
