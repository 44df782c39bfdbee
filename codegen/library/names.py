"""The interface of a compiled library: the names and calling conventions of its functions.

For every unit, such as "encoder" or "step", a library has two functions, whose arguments are TVM tensors:

    unit(*inputs, places, *outputs, [times])
    unit_shapes(*inputs, shapes)

- `inputs`: the user inputs of the unit; growing caches of equal shape are stacked into one input.
- `places`: int64 [number of parameters and constants], the address of each in bytes relative to `places`
  itself. Passing hundreds of arguments would take longer than some kernels.
- `outputs`: written by the call; the second function computes their shapes.
- `shapes`: int64 [number of outputs, MAX_RANK], written by the second function; the unused end of a row is
  not written.
- `times`: int64 [number of kernel calls], only if the library was built with a clock: nanoseconds are added.

Libraries of models that generate text have two more functions, see `codegen.kernels.float_ops.vocabulary`.

This module imports nothing: the runtime reads it without loading the compiler.
"""

from __future__ import annotations

MAX_RANK = 8
"""The maximum number of dimensions of an output."""

LOG_SOFTMAX = "vocabulary_log_softmax"
"""The function that converts scores of a vocabulary to log-probabilities, in place."""

BEST = "vocabulary_best"
"""The function that finds the top k continuations."""


def shapes_of(unit: str) -> str:
    """The name of the function that computes the output shapes of a unit."""
    return f"{unit}_shapes"
