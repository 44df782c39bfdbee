"""Find the integer divisions whose divisor may be 0.

PyTorch raises where an integer is divided by 0. Compiled divisions divide by 1 instead, because the processor
would end the process; `check_lookups` makes them checks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tbt_compile.ops.operands import operands
from tbt_compile.passes.least_values import least_values
from tbt_compile.passes.prepare.aten import described_owner

_ATEN = torch.ops.aten
_DIVISIONS = (
    *(_ATEN.floor_divide, _ATEN.floor_divide_, _ATEN.remainder, _ATEN.remainder_, _ATEN.fmod, _ATEN.fmod_),
    *(_ATEN.div, _ATEN.div_),
)


def unchecked_divisions(program: ExportedProgram) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the integer divisions whose divisor is not known to be positive, with their divisors."""
    least = least_values(program)
    for node in program.graph.nodes:
        if getattr(node.target, "overloadpacket", None) not in _DIVISIONS:
            continue
        value, divisor = node.meta["val"], operands(node).other
        if not isinstance(divisor, fx.Node) or not isinstance(divisor.meta["val"], Tensor):
            continue
        known = least.get(divisor)
        positive = known is not None and known.source is None and known.offset > 0
        if not value.dtype.is_floating_point and not positive:
            yield node, divisor


def described_division(node: fx.Node, root: str) -> str:
    """Say what is expected of the divisor of a division.

    Args:
        node: the division.
        root: prefix of the module names that the user's model lacks.

    Returns:
        Such as "aten.floor_divide.default in module 'table' (Table): expected divisors other than 0".
    """
    return f"{node.target} in {described_owner(node, root)}: expected divisors other than 0"
