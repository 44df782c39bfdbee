"""What a compiled library and its callers agree on: the functions it has, and how they are called.

For every unit, such as "encoder" or "step", a library has two functions. Their arguments are tensors of TVM:

    unit(*inputs, places, *outputs, [times])
    unit_shapes(*inputs, shapes)

- `inputs`: what the exported unit takes; growing caches of one shape are stacked, as one input.
- `places`: int64 [number of parameters and constants], where each of them begins, in bytes from `places`
  itself. Hundreds of arguments would take longer than some kernels.
- `outputs`: written by the call. Their shapes follow from those of the inputs:
- `shapes`: int64 [number of outputs, MOST_DIMENSIONS], written by the second function; the rest of a row is
  left as it was.
- `times`: int64 [number of kernel calls], only if the library was built with a clock: nanoseconds are added.

Libraries of models that generate text have two more functions, see `codegen.kernels.float_ops.vocabulary`.

This file imports nothing: the runtime reads it without loading the compiler.
"""

from __future__ import annotations

MOST_DIMENSIONS = 8
"""Columns of the table of output shapes."""

LOG_SOFTMAX = "vocabulary_log_softmax"
"""Turns the scores of a vocabulary into log-probabilities."""

BEST = "vocabulary_best"
"""Finds the best continuations."""


def shapes_of(unit: str) -> str:
    """The function that computes the shapes of a unit's outputs."""
    return f"{unit}_shapes"
