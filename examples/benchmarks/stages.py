"""Compares the stages of one module: reference graph, prepared, frozen and compiled."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tbt_compile
from tbt_compile.adapters import call_record
from tbt_compile.errors import TbtError
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.preparation import make_context


def compare(
    module: nn.Module,
    recipe: Any,
    inputs: Sequence[Tensor],
    train: Callable[[nn.Module], None] | None = None,
    compiled: bool = True,
) -> tuple[str, str]:
    """Take a module from full precision to its library and compare what every stage computes.

    Args:
        module: in evaluation mode; it is prepared in place.
        recipe: for `prepare`.
        inputs: positional arguments of the module.
        train: trains the prepared module.
        compiled: whether to compile it.

    Returns:
        "equal", "refused" or "different", and what was wrong.
    """
    try:
        call = call_record.record(module, tuple(inputs), {})
        context = PREPARE.run(make_context(module, recipe, tuple(inputs)))
        call_record.restore(module, call)
        with torch.no_grad():
            expected, reference = module(*inputs), context.captured(*inputs)
        if not torch.equal(expected, reference):
            return "different", "the reference graph differs"
        if train is not None:
            train(module)
            with torch.no_grad():
                expected = module(*inputs)
        frozen = tbt_compile.freeze(module)
        with torch.no_grad():
            if not torch.equal(frozen.module(*inputs), expected):
                return "different", "the frozen module differs"
        if compiled:
            got, own = tbt_compile.lower(frozen)(*(each.numpy() for each in inputs)), frozen(*inputs)
            if not np.array_equal(got, own.numpy()):
                worst = relative_error(got, own)
                return "different", f"the compiled module is off by {worst:.2g} of its largest output"
    except TbtError as error:
        return "refused", str(error)
    except Exception:
        return "different", traceback.format_exc(limit=-4)
    return "equal", ""


def relative_error(got: Any, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected magnitude."""
    wanted = expected.numpy()
    worst, largest = float(np.abs(got - wanted).max()), float(np.abs(wanted).max())
    return worst / largest if largest else worst
