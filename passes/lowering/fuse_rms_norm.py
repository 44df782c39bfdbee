"""Recognise root-mean-square normalisation that a model writes out in single operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, addends, factors, is_call, replace


def fuse(product: fx.Node) -> bool:
    """Rewrite `weight * (x * rsqrt(mean(x ** 2, -1, keepdim=True) + eps))`, factors in any order."""
    for weight, normed in _orders(product):
        if not isinstance(weight, fx.Node) or weight.op != "placeholder" or weight.meta["val"].ndim != 1:
            continue
        for x, root in _orders(normed):
            eps = _eps(root, x)
            if eps is not None:
                size = weight.meta["val"].shape[0]
                replace(product, ATEN.rms_norm.default, (x, [size], weight, eps))
                return True
    return False


def _orders(product: Any) -> list[tuple[Any, Any]]:
    """Both ways to name the factors of a product."""
    found = factors(product)
    return [] if found is None else [found, found[::-1]]


def _eps(root: Any, x: Any) -> float | None:
    """The eps of `rsqrt(mean(x ** 2, -1, keepdim=True) + eps)`; None for anything else."""
    total = addends(root.args[0]) if is_call(root, ATEN.rsqrt.default) else None
    if total is None:
        return None
    mean, eps = total
    if not is_call(mean, ATEN.mean.dim) or tuple(mean.args[1:]) != ([-1], True) or mean.kwargs:
        return None
    square = mean.args[0]
    if not is_call(square, ATEN.pow.Tensor_Scalar) or square.args != (x, 2):
        return None
    return float(eps) if isinstance(eps, (int, float)) else None


@dataclass(frozen=True)
class FuseRmsNorm:
    """Replaces normalisation written as square, mean, rsqrt and products by `aten::rms_norm`.

    Needs: a cleaned-up graph. Leaves: one operator, which has a kernel, where a model such as Llama or T5
    writes five.
    """

    name: str = "fuse-rms-norm"

    def apply(self, context: LoweringContext) -> PassResult:
        found = [node for node in context.graph.nodes if is_call(node, ATEN.mul.Tensor)]
        fused = sum(fuse(node) for node in found)
        context.graph.eliminate_dead_code()
        return PassResult(fused)
