"""Fuse an activation function into the epilogue of the linear layer before it."""

from __future__ import annotations

from typing import Any

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import ATEN, TBT, match_call, replace, single_user
from tbt_compile.passes.rewrite import RewritePass

_FUNCTIONS: dict[Any, str] = {ATEN.relu.default: "relu", ATEN.silu.default: "silu", ATEN.tanh.default: "tanh"}
_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


def fuse(linear: fx.Node) -> bool:
    """Rewrite `f(bit_linear(...))` when the linear layer has one user and no function yet."""
    user = single_user(linear)
    function = function_of(user) if user else None
    if user is None or function is None or operands(linear).function:
        return False
    replace(user, TBT.bit_linear.default, **vars(operands(linear)) | {"function": function})
    return True


def function_of(node: fx.Node) -> str | None:
    """The name of an activation function in `ops.linear.FUNCTIONS`, or None."""
    gelu = match_call(node, ATEN.gelu.default)
    return _GELUS.get(gelu.approximate) if gelu else _FUNCTIONS.get(node.target)


class FuseLinearActivation(RewritePass):
    """Fuses activation functions into the epilogue of `tbt::bit_linear`.

    Needs: fused linear layers. Leaves: activations of results with several users, and of sums.
    """

    name = "fuse-linear-activation"
    targets = (TBT.bit_linear.default,)

    def rewrite(self, node: fx.Node) -> bool:
        """`f(bit_linear(x, w))` -> `bit_linear(x, w, function=f)`."""
        return fuse(node)
