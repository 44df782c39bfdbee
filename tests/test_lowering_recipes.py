"""Lowering at other recipes than 2-2-2, with odd sizes, and with a layer in full precision."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_tools import assert_rows_do_not_depend_on_the_batch, eager_tokens, prompts, sources, trained
from models import bart, gpt2

import tbt_compile

NEW_TOKENS = {"max_new_tokens": 14, "min_new_tokens": 5}
# No size is a multiple of a vector or of a word.
ODD = {"d_model": 69, "encoder_attention_heads": 3, "decoder_attention_heads": 3, "vocab_size": 101}
ODD |= {"encoder_ffn_dim": 77, "decoder_ffn_dim": 77, "activation_function": "relu"}


@pytest.mark.parametrize("notation", ["1-1-1", "2-2-8", "8-1-2", "32-2-2"])
def test_other_recipes(notation: str) -> None:
    recipe = tbt_compile.Recipe.parse(notation, center_activations=notation != "8-1-2")
    model = trained(bart(layers=1, **ODD), recipe)
    frozen = tbt_compile.freeze(model)
    compiled = tbt_compile.lower(frozen)
    assert compiled.recipe == recipe
    ids, mask = sources(model.config.pad_token_id)
    expected = eager_tokens(frozen, ids, mask, **NEW_TOKENS)
    assert np.array_equal(compiled.generate(ids, mask, **NEW_TOKENS), expected)
    inputs = {"input_ids": ids, "attention_mask": mask}
    found = tbt_compile.verify(frozen, compiled, inputs, least=1, num_beams=4, **NEW_TOKENS)
    assert found.ok, str(found)
    assert_rows_do_not_depend_on_the_batch(compiled, model.config.pad_token_id, **NEW_TOKENS)


def test_a_layer_in_full_precision_between_others() -> None:
    """Its cache is one of floats, beside a stack of those of the other two layers."""
    excluded = ("transformer.h.1.attn",)
    model = trained(gpt2(layers=3), tbt_compile.Recipe.parse("2-2-2", exclude=excluded))
    frozen = tbt_compile.freeze(model)
    compiled = tbt_compile.lower(frozen)
    assert compiled.description["stacks"]["step"] == [[1, 5], [2, 6]]
    ids, mask = prompts(model.config.pad_token_id)
    expected = eager_tokens(frozen, ids, mask, **NEW_TOKENS)
    assert np.array_equal(compiled.generate(ids, mask, **NEW_TOKENS), expected)
    inputs = {"input_ids": ids, "attention_mask": mask}
    found = tbt_compile.verify(frozen, compiled, inputs, least=1, num_beams=3, **NEW_TOKENS)
    assert found.ok, str(found)
