"""The smallest value of every integer tensor in an exported program, as far as it can be followed.

A bound is a number, or an input plus a number: `position_ids + 2` is at least the smallest value of
`position_ids` plus 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tbt_compile.ops.operands import operands

_ATEN = torch.ops.aten


class Least(NamedTuple):
    """A lower bound: the smallest value of the input `source` (0 for None) plus `offset`."""

    source: str | None
    offset: int


LeastOf = Callable[[Any], Least | None]


def least_values(program: ExportedProgram, counts: Collection[str] = ()) -> dict[fx.Node, Least | None]:
    """Follow the smallest values through the graph.

    Args:
        program: an exported program.
        counts: the inputs that are known not to be negative, by name.

    Returns:
        The bound of every placeholder and call; None: unknown.
    """
    values: dict[fx.Node, Least | None] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dtype.is_floating_point:
            continue
        if value.dtype is torch.bool:
            values[node] = Least(None, 0)
        elif node.op == "placeholder":
            values[node] = Least(None, 0) if node.name in counts else _of_placeholder(program, node)
        elif node.op == "call_function":
            values[node] = _of_call(node, values)
    return values


def _of_placeholder(program: ExportedProgram, node: fx.Node) -> Least | None:
    if node.name in program.graph_signature.user_inputs:
        return Least(node.name, 0)
    stored = stored_tensor(program, node)
    return None if stored is None else Least(None, int(stored.min()))


def stored_tensor(program: ExportedProgram, node: fx.Node) -> Tensor | None:
    """The buffer or constant that a placeholder is, unless it is empty."""
    signature = program.graph_signature
    for names in (signature.inputs_to_buffers, signature.inputs_to_lifted_tensor_constants):
        name = names.get(node.name)
        stored = None if name is None else program.state_dict.get(name, program.constants.get(name))
        if isinstance(stored, Tensor) and stored.numel():
            return stored
    return None


def _of_call(node: fx.Node, values: Mapping[fx.Node, Least | None]) -> Least | None:
    packet = getattr(node.target, "overloadpacket", None)
    if packet in SAME:
        return values.get(node.args[0])  # type: ignore[arg-type]
    rule = _RULES.get(packet)

    def least(operand: Any) -> Least | None:
        if isinstance(operand, torch.fx.Node) and isinstance(operand.meta.get("val"), Tensor):
            return values.get(operand)
        if isinstance(operand, int) and not isinstance(operand, bool):
            return Least(None, operand)
        # A size, the only other number in a graph, is not negative.
        return Least(None, 0) if isinstance(operand, fx.Node) else None

    return None if rule is None else rule(operands(node), least)


def _add(op: Any, least: LeastOf) -> Least | None:
    one, other = least(op.self), least(op.other)
    if one is None or other is None or op.alpha != 1 or None not in (one.source, other.source):
        return None
    return Least(one.source or other.source, one.offset + other.offset)


def _subtract(op: Any, least: LeastOf) -> Least | None:
    one = least(op.self)
    if one is None or not isinstance(op.other, int) or op.alpha != 1:
        return None
    return Least(one.source, one.offset - op.other)


def _multiply(op: Any, least: LeastOf) -> Least | None:
    one, other = least(op.self), least(op.other)
    return Least(None, 0) if _counts(one) and _counts(other) else None


def _cumulative(op: Any, least: LeastOf) -> Least | None:
    return Least(None, 0) if _counts(least(op.self)) else None


def _counts(value: Least | None) -> bool:
    """Whether a value is never negative, whatever the inputs."""
    return value is not None and value.source is None and value.offset >= 0


def _range(op: Any, least: LeastOf) -> Least | None:
    step = getattr(op, "step", 1)
    return least(getattr(op, "start", 0)) if isinstance(step, int) and step > 0 else None


def _larger(op: Any, least: LeastOf) -> Least | None:
    """Bound a maximum, or a clamped value, by the operand that is a number, if there is one."""
    limit = getattr(op, "min", None) if hasattr(op, "min") else getattr(op, "other", None)
    known = [value for value in (least(limit), least(op.self)) if value is not None]
    numbers = [value for value in known if value.source is None]
    return max(numbers, key=lambda value: value.offset) if numbers else next(iter(known), None)


def _smallest(*found: Least | None) -> Least | None:
    """Bound a choice between several values: numbers, or the same input plus the same number."""
    known = [value for value in found if value is not None]
    if len(known) < len(found) or (len(set(known)) > 1 and any(value.source for value in known)):
        return None
    return min(known, key=lambda value: value.offset)


def _smaller(op: Any, least: LeastOf) -> Least | None:
    other = getattr(op, "other", None)
    return _smallest(least(op.self), least(op.max if other is None else other))


_ZERO = Least(None, 0)


def _zero(_op: Any, _least: LeastOf) -> Least | None:
    return _ZERO


def _filled(op: Any, least: LeastOf) -> Least | None:
    return least(op.fill_value)


SAME = {
    *(_ATEN.alias, _ATEN.clone, _ATEN.contiguous, _ATEN.detach, _ATEN.detach_, _ATEN.expand, _ATEN.flatten),
    *(_ATEN.flip, _ATEN.gather, _ATEN.index, _ATEN.index_select, _ATEN.lift_fresh_copy, _ATEN.narrow),
    *(_ATEN.permute, _ATEN.repeat, _ATEN.reshape, _ATEN.select, _ATEN.slice, _ATEN.squeeze, _ATEN.t),
    *(_ATEN.to, _ATEN._to_copy, _ATEN.transpose, _ATEN.type_as, _ATEN.unsqueeze, _ATEN.view),
}
"""Operators whose result holds values of their first operand only."""

_RULES: dict[Any, Callable[[Any, LeastOf], Least | None]] = {
    _ATEN.add: _add,
    _ATEN.add_: _add,
    _ATEN.sub: _subtract,
    _ATEN.mul: _multiply,
    _ATEN.cumsum: _cumulative,
    _ATEN.arange: _range,
    _ATEN.full: _filled,
    _ATEN.full_like: _filled,
    _ATEN.new_full: _filled,
    _ATEN.clamp: _larger,
    _ATEN.clamp_min: _larger,
    _ATEN.maximum: _larger,
    _ATEN.minimum: _smaller,
    _ATEN.clamp_max: _smaller,
    _ATEN.remainder: lambda op, _: _ZERO if isinstance(op.other, int) and op.other > 0 else None,
    _ATEN.where: lambda op, least: _smallest(least(op.self), least(op.other)),
    _ATEN.cat: lambda op, least: _smallest(*map(least, op.tensors)),
    _ATEN.stack: lambda op, least: _smallest(*map(least, op.tensors)),
    **dict.fromkeys((_ATEN.abs, _ATEN.argmax, _ATEN.argmin, _ATEN.bucketize, _ATEN.searchsorted), _zero),
    **dict.fromkeys((_ATEN.zeros, _ATEN.zeros_like, _ATEN.new_zeros), _zero),
    **dict.fromkeys((_ATEN.ones, _ATEN.ones_like, _ATEN.new_ones), lambda *_: Least(None, 1)),
}
