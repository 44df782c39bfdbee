"""Fuse an RMS norm that is spelled out in elementary operators."""

from __future__ import annotations

from typing import Any

from torch import fx

from tbt_compile.passes.lowering.match import ATEN, addends, factors, match_call, replace, shape_of
from tbt_compile.passes.rewrite import RewritePass


def fuse(product: fx.Node) -> bool:
    """Rewrite `weight * (x * rsqrt(mean(x ** 2, -1, keepdim=True) + eps))`, factors in any order."""
    for weight, normed in _orders(product):
        if not isinstance(weight, fx.Node) or weight.op != "placeholder" or len(shape_of(weight)) != 1:
            continue
        for x, root in _orders(normed):
            eps = _eps(root, x)
            if eps is not None and shape_of(weight)[0] == shape_of(x)[-1]:
                shape = [shape_of(weight)[0]]
                replace(
                    product, ATEN.rms_norm.default, input=x, normalized_shape=shape, weight=weight, eps=eps
                )
                return True
    return False


def _orders(product: Any) -> list[tuple[Any, Any]]:
    """The factors of a product in either order; none for any other node."""
    found = factors(product)
    return [] if found is None else [found, found[::-1]]


def _eps(root: Any, x: Any) -> float | None:
    """The eps of `rsqrt(mean(x ** 2, -1, keepdim=True) + eps)`; None for anything else."""
    rsqrt = match_call(root, ATEN.rsqrt.default)
    total, eps = (addends(rsqrt.self) if rsqrt else None) or (None, None)
    mean = match_call(total, ATEN.mean.dim)
    if mean is None or (mean.dim, mean.keepdim, mean.dtype) != ([-1], True, None):
        return None
    square = match_call(mean.self, ATEN.pow.Tensor_Scalar)
    if square is None or square.self is not x or square.exponent != 2:
        return None
    return float(eps) if isinstance(eps, (int, float)) else None


class FuseRmsNorm(RewritePass):
    """Fuses square, mean, rsqrt and products into `aten::rms_norm`.

    Needs: a cleaned-up graph. Leaves: one operator with a kernel for each RMS norm of Llama or T5.
    """

    name = "fuse-rms-norm"
    targets = (ATEN.mul.Tensor,)

    def rewrite(self, node: fx.Node) -> bool:
        """`weight * (x * rsqrt(mean(x ** 2) + eps))` -> `rms_norm(x, weight, eps)`."""
        return fuse(node)
