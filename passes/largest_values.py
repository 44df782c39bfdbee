"""The largest value of every integer tensor in an exported program, as far as it can be followed.

Bounds are sums of at most one input and an expression in dynamic sizes: `arange(size(ids, 1)) + 2` is at most
`s0 + 1`, `position_ids + 2` at most the largest value of `position_ids` plus 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import sympy
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tbt_compile.ops.operands import operands
from tbt_compile.passes.least_values import SAME, Least, least_values, stored_tensor

_ATEN = torch.ops.aten
_MOST_TERMS = 16


class Term(NamedTuple):
    """An upper bound: the largest value of the input `source` (0 for None) plus `offset`."""

    source: str | None
    offset: sympy.Expr


Terms = tuple[Term, ...] | None
"""A tensor's largest value is at most the largest of these; None: unknown."""


def largest_values(program: ExportedProgram, most: Mapping[str, int]) -> dict[fx.Node, Terms]:
    """Follow the largest values through the graph.

    Args:
        program: an exported program.
        most: largest values of inputs, by name; other inputs are terms of their own.

    Returns:
        The bound of every placeholder and call.
    """
    values: dict[fx.Node, Terms] = {}
    least = least_values(program, most.keys())
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _of_placeholder(program, node, most)
        elif node.op == "call_function":
            values[node] = _of_call(node, values, least)
    return values


def size_of(value: Any) -> Any:
    """Return an integer or a dynamic size as an expression; None for anything else."""
    value = value.meta.get("val") if isinstance(value, fx.Node) else value
    if isinstance(value, torch.SymInt):
        return value.node.expr
    return sympy.Integer(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _of_placeholder(program: ExportedProgram, node: fx.Node, most: Mapping[str, int]) -> Terms:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype.is_floating_point:
        return None
    if node.name in most:
        return _constant(most[node.name])
    if node.name in program.graph_signature.user_inputs:
        return _constant(1) if value.dtype is torch.bool else (Term(node.name, sympy.Integer(0)),)
    stored = stored_tensor(program, node)
    return None if stored is None else _constant(int(stored.max()))


def _of_call(node: fx.Node, values: Mapping[fx.Node, Terms], least: Mapping[fx.Node, Least | None]) -> Terms:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype.is_floating_point:
        return None
    if value.dtype is torch.bool:
        return _constant(1)
    packet = getattr(node.target, "overloadpacket", None)
    if packet in SAME:
        return values.get(node.args[0])  # type: ignore[arg-type]
    rule = _RULES.get(packet)
    if rule is None or (packet in _OF_COUNTS and least.get(node) is None):
        return None

    def terms(operand: Any) -> Terms:
        if isinstance(operand, fx.Node) and isinstance(operand.meta.get("val"), Tensor):
            return values.get(operand)
        size = size_of(operand)
        return None if size is None else (Term(None, size),)

    return rule(operands(node), terms)


Follow = Callable[[Any], Terms]


def _add(op: Any, terms: Follow) -> Terms:
    one, other = terms(op.self), terms(op.other)
    if one is None or other is None or op.alpha != 1 or len(one) * len(other) > _MOST_TERMS:
        return None
    sums = []
    for a, b in product(one, other):
        if a.source is not None and b.source is not None:
            return None
        sums.append(Term(a.source or b.source, a.offset + b.offset))
    return tuple(sums)


def _subtract(op: Any, terms: Follow) -> Terms:
    one = terms(op.self)
    if one is None or not isinstance(op.other, int) or op.alpha != 1:
        return None
    return tuple(Term(source, offset - op.other) for source, offset in one)


def _multiply(op: Any, terms: Follow) -> Terms:
    one, other = terms(op.self), terms(op.other)
    if one is None or other is None or any(term.source is not None for term in (*one, *other)):
        return None
    return tuple(Term(None, a.offset * b.offset) for a, b in product(one, other))


def _cumulative(op: Any, terms: Follow) -> Terms:
    values, length = terms(op.self), size_of(op.self.meta["val"].shape[op.dim])
    if values is None or any(term.source is not None for term in values):
        return None
    return tuple(Term(None, term.offset * length) for term in values)


def _range(op: Any, _terms: Follow) -> Terms:
    step = getattr(op, "step", 1)
    end = size_of(op.end)
    return (Term(None, end - 1),) if end is not None and isinstance(step, int) and step > 0 else None


def _position(op: Any, _terms: Follow) -> Terms:
    """Bound the place of an element in a dimension, or in the whole tensor."""
    shape = op.self.meta["val"].shape
    size = size_of(shape.numel() if op.dim is None else shape[op.dim])
    return (Term(None, size - 1),)


def _bucket(op: Any, _terms: Follow) -> Terms:
    boundaries = op.boundaries if hasattr(op, "boundaries") else op.sorted_sequence
    size = size_of(boundaries.meta["val"].shape[-1])
    return (Term(None, size),)


def _remainder(op: Any, _terms: Follow) -> Terms:
    return _constant(op.other - 1) if isinstance(op.other, int) and op.other > 0 else None


def _filled(op: Any, _terms: Follow) -> Terms:
    size = size_of(op.fill_value)
    return None if size is None else (Term(None, size),)


def _smaller(op: Any, terms: Follow) -> Terms:
    """Bound a minimum by the operand whose bound does not depend on an input, if there is one."""
    limit = getattr(op, "other", None) if getattr(op, "max", None) is None else op.max
    known = [found for found in (terms(limit), terms(op.self)) if found is not None]
    return min(known, key=lambda found: any(term.source is not None for term in found), default=None)


def _where(op: Any, terms: Follow) -> Terms:
    """Bound a choice by both operands: by c - 1 where the condition is that the operand is below c."""
    first = _below(op.condition, op.self) or terms(op.self)
    second = terms(op.other)
    return None if first is None or second is None else (*first, *second)


def _below(condition: Any, value: Any) -> Terms:
    if isinstance(condition, fx.Node) and condition.target is _ATEN.lt.Scalar:
        compared, limit = condition.args
        if compared is value and isinstance(limit, int):
            return _constant(limit - 1)
    return None


def _joined(op: Any, terms: Follow) -> Terms:
    parts = [terms(part) for part in op.tensors]
    if any(part is None for part in parts):
        return None
    return tuple(dict.fromkeys(term for part in parts if part is not None for term in part))


def _constant(value: int) -> Terms:
    return (Term(None, sympy.Integer(value)),)


_OF_COUNTS = (_ATEN.mul, _ATEN.cumsum)
"""Operators whose rules are for values that are not negative, as ids, masks and positions are."""

_RULES: dict[Any, Callable[[Any, Follow], Terms]] = {
    _ATEN.add: _add,
    _ATEN.add_: _add,
    _ATEN.sub: _subtract,
    _ATEN.mul: _multiply,
    _ATEN.cumsum: _cumulative,
    _ATEN.arange: _range,
    _ATEN.full: _filled,
    _ATEN.full_like: _filled,
    _ATEN.new_full: _filled,
    _ATEN.zeros: lambda _op, _terms: _constant(0),
    _ATEN.zeros_like: lambda _op, _terms: _constant(0),
    _ATEN.new_zeros: lambda _op, _terms: _constant(0),
    _ATEN.ones: lambda _op, _terms: _constant(1),
    _ATEN.ones_like: lambda _op, _terms: _constant(1),
    _ATEN.new_ones: lambda _op, _terms: _constant(1),
    _ATEN.minimum: _smaller,
    _ATEN.min: _smaller,
    _ATEN.clamp: _smaller,
    _ATEN.clamp_max: _smaller,
    _ATEN.where: _where,
    _ATEN.argmax: _position,
    _ATEN.argmin: _position,
    _ATEN.bucketize: _bucket,
    _ATEN.searchsorted: _bucket,
    _ATEN.remainder: _remainder,
    _ATEN.cat: _joined,
    _ATEN.stack: _joined,
}
