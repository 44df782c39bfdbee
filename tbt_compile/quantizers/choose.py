"""Which quantizer a weight gets."""

from __future__ import annotations

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.quantizers.scaled import ScaledWeightQuantizer
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.quantizers.weights import WeightQuantizer
from tbt_compile.recipe import Recipe


def weight_quantizer(
    recipe: Recipe, encoding: Encoding, rows: int, columns: int, split: bool
) -> WeightQuantizer:
    """The quantizer of a weight `[rows, columns]`; `split` says whether the recipe splits this one."""
    if split and encoding is Encoding.BINARY:
        return SplitWeightQuantizer(rows, columns)
    if recipe.weight_method == "pruned":
        return BlockPruner(rows, columns, recipe.block)
    if recipe.weight_method == "scaled":
        return ScaledWeightQuantizer(encoding)
    return WeightQuantizer(
        encoding, center=recipe.center_weights, method=recipe.weight_method, ste=recipe.ste
    )
