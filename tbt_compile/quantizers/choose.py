"""Selection of the weight quantizer that a recipe asks for."""

from __future__ import annotations

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.learned_rows import LearnedWeightQuantizer
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.quantizers.scaled import ScaledWeightQuantizer
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.quantizers.weights import WeightQuantizer
from tbt_compile.recipe import Recipe


def weight_quantizer(
    recipe: Recipe, encoding: Encoding, rows: int, columns: int, split: bool
) -> WeightQuantizer:
    """Make the quantizer of a weight.

    Args:
        recipe: selects the method.
        encoding: of the codes.
        rows: N of the weight `[N, K]`.
        columns: K.
        split: whether the recipe splits this weight into two; only binary weights are split.

    Returns:
        A quantizer that has not seen the weight.
    """
    if split and encoding is Encoding.BINARY:
        return SplitWeightQuantizer(rows, columns)
    if recipe.weight_method == "pruned":
        return BlockPruner(rows, columns, recipe.block)
    if recipe.weight_method == "scaled":
        return ScaledWeightQuantizer(encoding)
    if recipe.weight_method == "learned" and encoding.planes:
        return LearnedWeightQuantizer(encoding, rows, recipe.ste)
    # More than two bits have no levels to learn: their scale is the largest magnitude in any case.
    return WeightQuantizer(
        encoding, center=recipe.center_weights, method=recipe.weight_method, ste=recipe.ste
    )
