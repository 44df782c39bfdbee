"""Let a linear layer apply the activation function that alone reads its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, is_call, only_user, replace

_FUNCTIONS: dict[Any, str] = {ATEN.relu.default: "relu", ATEN.silu.default: "silu", ATEN.tanh.default: "tanh"}


def fuse(linear: fx.Node) -> bool:
    """Rewrite `f(bit_linear(...))` when nothing else reads the linear layer's results."""
    user = only_user(linear)
    function = _function(user) if user is not None else None
    if user is None or function is None:
        return False
    replace(user, TBT.bit_linear.default, (*linear.args, function))
    return True


def _function(node: fx.Node) -> str | None:
    if is_call(node, ATEN.gelu.default):
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(node.kwargs.get("approximate", "none")))
    return _FUNCTIONS.get(node.target) if node.op == "call_function" else None


@dataclass(frozen=True)
class FuseLinearActivation:
    """Gives the activation functions behind linear layers to `tbt::bit_linear`.

    Needs: `fuse-linear`. Leaves: functions of results that something else reads too, and of sums.
    """

    name: str = "fuse-linear-activation"

    def apply(self, context: LoweringContext) -> PassResult:
        linears = [node for node in context.graph.nodes if is_call(node, TBT.bit_linear.default)]
        fused = sum(fuse(node) for node in linears)
        context.graph.eliminate_dead_code()
        return PassResult(fused)
