"""Sign analysis: which tensors of the captured graph can never be negative.

The paper quantizes two categories of activations, non-negative (softmax and ReLU outputs) and signed. This is
a forward data-flow analysis over the lattice NONNEG < SIGNED: a transfer rule per operator derives the sign
of the result from the signs of the operands; without a rule the result is SIGNED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import PassResult, target_name
from tbt_compile.passes.prepare.aten import (
    DROPOUT,
    SOFTMAX,
    VIEW,
    aten,
    changed_in_place,
    owner_class,
    viewed,
)

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


class Sign(Enum):
    """A point of the lattice."""

    NONNEG = "non-negative"
    SIGNED = "signed"


@dataclass(frozen=True)
class Decision:
    """The sign of a tensor and, in words, the operator that decides it."""

    sign: Sign
    reason: str

    @property
    def signed(self) -> bool:
        """Whether negative values are possible."""
        return self.sign is Sign.SIGNED

    def __str__(self) -> str:
        return f"{self.sign.value}: {self.reason}"


_ALWAYS_NONNEG = SOFTMAX | {
    aten.abs.default,
    aten.exp.default,
    aten.hardsigmoid.default,
    aten.hardsigmoid_.default,
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.sigmoid_.default,
    aten.softplus.default,
    aten.square.default,
    aten.zero_.default,
}
# Non-negative if every operand is.
_CLOSED = frozenset(
    {
        aten.add.Tensor,
        aten.add_.Tensor,
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.avg_pool1d.default,
        aten.avg_pool2d.default,
        aten.bmm.default,
        aten.cat.default,
        aten.copy_.default,
        aten.div.Scalar,
        aten.div.Tensor,
        aten.div_.Tensor,
        aten.index_put_.default,
        aten.matmul.default,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.mean.dim,
        aten.minimum.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.mul_.Tensor,
        aten.sqrt.default,
        aten.stack.default,
        aten.sum.dim_IntList,
    }
)
_CLAMPS = frozenset(
    {
        aten.clamp.default,
        aten.clamp_max.default,
        aten.clamp_min.default,
        aten.hardtanh.default,
        aten.hardtanh_.default,
    }
)
_SELECT = frozenset({aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf})
# The result has values of the operand, and the number `value` in other places; None is 0.
_FILL = frozenset(
    {
        aten.constant_pad_nd.default,
        aten.masked_fill.Scalar,
        aten.masked_fill_.Scalar,
        aten.masked_fill.Tensor,
        aten.pad.default,
    }
)

Signs = Callable[[Any], Decision]


def classify_node(node: fx.Node, sign_of: Signs, gelu_nonnegative: bool) -> Decision:
    """The transfer function: the sign of one node, given the signs of its operands.

    Args:
        node: any node of the graph.
        sign_of: the decision for an operand, which is a node or a number.
        gelu_nonnegative: whether the output of a GELU counts as non-negative; its quantizer then clips
            values below zero.

    Returns:
        The sign, and the reason for it.
    """
    if node.op != "call_function":
        return Decision(Sign.SIGNED, {"placeholder": "model input"}.get(node.op, "parameter or constant"))
    target, name = node.target, target_name(node).rstrip("_")
    if target is aten.gelu.default or "GELU" in owner_class(node):
        if gelu_nonnegative:
            return Decision(Sign.NONNEG, "output of gelu, clipped at 0 as the recipe asks")
        if target is aten.gelu.default:
            return Decision(Sign.SIGNED, "output of gelu, which reaches -0.17")
    if target in _ALWAYS_NONNEG:
        return Decision(Sign.NONNEG, f"output of {name.lstrip('_')}")
    if target in VIEW or target in DROPOUT:
        return sign_of(viewed(node))
    if target is aten.pow.Tensor_Scalar and operands(node).exponent % 2 == 0:
        return Decision(Sign.NONNEG, "even power")
    if target in _CLAMPS:
        return _clamped(node, sign_of, name)
    if target is aten.maximum.default:
        return _any_nonneg([sign_of(value) for value in _values(node)], name)
    if target in _CLOSED and not _subtracts(node):
        return _all_nonneg([sign_of(value) for value in _values(node)], name)
    if target in _SELECT:
        return _all_nonneg([sign_of(value) for value in _values(node)], name)
    if target in _FILL:
        call = operands(node)
        return _all_nonneg([sign_of(call.self), sign_of(0 if call.value is None else call.value)], name)
    return Decision(Sign.SIGNED, f"output of {name}")


def _values(node: fx.Node) -> list[Any]:
    """Operands whose sign matters: tensors, and the number in `x * 2` or `x + 1`."""
    call = operands(node)
    if hasattr(call, "tensors"):
        return list(call.tensors)
    if hasattr(call, "other"):
        return [call.self, call.other]
    return [value for value in vars(call).values() if isinstance(value, fx.Node)]


def _subtracts(node: fx.Node) -> bool:
    alpha = getattr(operands(node), "alpha", 1)
    return not isinstance(alpha, (int, float)) or alpha < 0


def _clamped(node: fx.Node, sign_of: Signs, name: str) -> Decision:
    call = vars(operands(node))
    lower, upper = call.get("min", call.get("min_val")), call.get("max", call.get("max_val"))
    if upper is not None and not (isinstance(upper, (int, float)) and upper >= 0):
        return Decision(Sign.SIGNED, f"output of {name} with an upper bound of {upper}")
    if isinstance(lower, (int, float)) and lower >= 0:
        return Decision(Sign.NONNEG, f"output of {name} with a lower bound of {lower}")
    return _all_nonneg([sign_of(call["self"])], name)


def _any_nonneg(found: list[Decision], name: str) -> Decision:
    for decision in found:
        if not decision.signed:
            return Decision(Sign.NONNEG, f"{name} with a non-negative ({decision.reason})")
    return Decision(Sign.SIGNED, f"{name} of signed values")


def _all_nonneg(found: list[Decision], name: str) -> Decision:
    for decision in found:
        if decision.signed:
            return Decision(Sign.SIGNED, f"{name} with a signed operand ({decision.reason})")
    reasons = list(dict.fromkeys(decision.reason for decision in found if decision.reason != "number"))
    if len(reasons) == 1:
        return Decision(Sign.NONNEG, reasons[0])
    return Decision(Sign.NONNEG, f"{name} of non-negatives ({', '.join(reasons)})")


def classify_graph(graph: fx.Graph, gelu_nonnegative: bool = False) -> dict[str, Decision]:
    """The sign decision of every node by name. One walk suffices: operands precede their users.

    A call that may write negative values into a tensor decides for that tensor and all its views.
    """
    decisions: dict[str, Decision] = {}

    def sign_of(value: Any) -> Decision:
        if isinstance(value, fx.Node):
            return decisions[value.name]
        if isinstance(value, (int, float)):
            return Decision(Sign.NONNEG if value >= 0 else Sign.SIGNED, "number")
        return Decision(Sign.SIGNED, "unknown value")

    for node in graph.nodes:
        decision = decisions[node.name] = classify_node(node, sign_of, gelu_nonnegative)
        if decision.signed:
            decisions.update(dict.fromkeys((changed.name for changed in changed_in_place(node)), decision))
    return decisions


@dataclass(frozen=True)
class ClassifyActivations:
    """Find the sign of every tensor.

    Needs: the captured graph. Leaves: `context.signs`, one decision per node; the graph is not changed.
    """

    name: str = "classify-activations"

    def apply(self, context: PrepareContext) -> PassResult:
        context.signs = classify_graph(context.captured.graph, context.recipe.gelu == "nonnegative")
        nonneg = sum(not decision.signed for decision in context.signs.values())
        return PassResult(nonneg, f"{nonneg} of {len(context.signs)} nodes are non-negative")
