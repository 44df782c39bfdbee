"""Fuse the Hadamard rotation of a linear layer's input into the layer, which rotates as it packs."""

from __future__ import annotations

from torch import fx

from tbt_compile.encoding import Encoding
from tbt_compile.ops.operands import operands
from tbt_compile.passes.lowering.match import TBT, match_call, replace
from tbt_compile.passes.rewrite import RewritePass


def fuse(linear: fx.Node) -> bool:
    """Rewrite `bit_linear(hadamard(x, block), w)`; layers that share a rotation each make their own."""
    given = vars(operands(linear))
    rotation = match_call(given["x"], TBT.hadamard.default)
    if rotation is None or given["hadamard"] or given["x_encoding"] == Encoding.FLOAT.value:
        return False
    replace(linear, TBT.bit_linear.default, **given | {"x": rotation.x, "hadamard": rotation.block})
    return True


class FuseHadamard(RewritePass):
    """Fuses the rotation of the input into `tbt::bit_linear`.

    Needs: fused linear layers. Leaves: rotations of what no quantized linear layer takes.
    """

    name = "fuse-hadamard"
    targets = (TBT.bit_linear.default,)

    def rewrite(self, node: fx.Node) -> bool:
        """`bit_linear(hadamard(x, block), w)` -> `bit_linear(x, w, hadamard=block)`."""
        return fuse(node)
