"""First dimensions of a plain module that `lower` has to fix to the size in the example inputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)

_ONE_ROW = "the example has one row; give at least two rows in the example inputs"
EXPORTED = "it is static in the exported program; export it again with dynamic_shapes"
RELATED = (
    "the forward branches on it or relates it to another size; compute the same for every number of rows"
)


def with_fixed_sizes(
    name: str, inputs: Sequence[dict[str, Any]], reason: str, otherwise: str = RELATED
) -> list[dict[str, Any]]:
    """Note which first dimensions are fixed, and warn if calls can have one number of rows only.

    Where the first dimension of another argument is free, the fixed ones are no batches: weights, or one mask
    for all rows. They are noted for the messages of calls that do not fit, without a warning.

    Args:
        name: of the module, for the warning.
        inputs: descriptions of its tensor arguments; text in a "shape" is a free size.
        reason: why no first dimension could be free, if it is known.
        otherwise: why, if it is not.

    Returns:
        The descriptions; "fixed" says why a first dimension is fixed.
    """
    tensors = [each for each in inputs if each["shape"]]
    fixed = {
        each["name"]: _ONE_ROW if each["shape"][0] == 1 else reason or otherwise
        for each in tensors
        if isinstance(each["shape"][0], int)
    }
    if reason or len(fixed) == len(tensors):
        for each in tensors:
            if each["name"] in fixed:
                log.warning(
                    "%s: the first dimension of %r is fixed to the %d of the example inputs, and calls with "
                    "another size will be refused: %s",
                    name,
                    each["name"],
                    each["shape"][0],
                    fixed[each["name"]],
                )
    return [{**each, "fixed": fixed[each["name"]]} if each["name"] in fixed else each for each in inputs]
