"""Which quantizer a recipe gives a weight."""

from __future__ import annotations

import pytest

from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.choose import weight_quantizer
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.quantizers.scaled import ScaledWeightQuantizer
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.quantizers.weights import WeightQuantizer
from tbt_compile.recipe import Recipe


@pytest.mark.parametrize(
    ("method", "encoding", "split", "kind"),
    [
        ("stats", Encoding.TERNARY, False, WeightQuantizer),
        ("stats", Encoding.BINARY, True, SplitWeightQuantizer),
        ("stats", Encoding.TERNARY, True, WeightQuantizer),
        ("scaled", Encoding.TERNARY, False, ScaledWeightQuantizer),
        ("pruned", Encoding.FLOAT, False, BlockPruner),
    ],
)
def test_the_method_and_the_encoding_choose(method: str, encoding: Encoding, split: bool, kind: type) -> None:
    bits, method = encoding.bits, "".join(list(method))  # another object, as from a file
    recipe = Recipe(weight_method=method, embedding_bits=bits, weight_bits=bits, block=2)
    quantizer = weight_quantizer(recipe, encoding, 6, 4, split)
    assert type(quantizer) is kind
    if isinstance(quantizer, BlockPruner):
        assert quantizer.scores.shape == (3, 2)
    if isinstance(quantizer, SplitWeightQuantizer):
        assert quantizer.second.shape == (6, 4)


def test_options_of_the_recipe_reach_the_quantizer() -> None:
    recipe = Recipe(weight_method="l2", center_weights=False, ste="clipped")
    quantizer = weight_quantizer(recipe, Encoding.TERNARY, 6, 4, False)
    assert (quantizer.encoding, quantizer.method) == (Encoding.TERNARY, "l2")
    assert (quantizer.center, quantizer.ste) == (False, "clipped")
