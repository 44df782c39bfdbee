"""Decoder-only models that change what `generate` gives them, compiled: the tokens and limits are theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import eager_tokens, prompts, trained
from models import POSITIONS, gpt2, llama
from transformers import GenerationMixin, PreTrainedModel

import tbt_compile
from tbt_compile import CompiledModel, FrozenModel
from tbt_compile.errors import GenerationError

IDS, MASK = prompts(1)
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12}


class PaddingCounts(GenerationMixin):
    """Positions are those of the forward, as in EXAONE 4.5 and KOSMOS-2.5."""

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        return {**super().prepare_inputs_for_generation(input_ids, **kwargs), "position_ids": None}


class FromOne(GenerationMixin):
    """Positions start at one, as in PaliGemma."""

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        return {**inputs, "position_ids": inputs["position_ids"] + 1}


def changed(model: PreTrainedModel, how: type[GenerationMixin]) -> tuple[FrozenModel, CompiledModel]:
    frozen = tbt_compile.freeze(trained(model, "2-2-8"))
    frozen.module.__class__ = type(how.__name__, (how, type(frozen.module)), {})
    return frozen, tbt_compile.lower(frozen)


@pytest.mark.parametrize(("how", "positions"), [(PaddingCounts, POSITIONS), (FromOne, POSITIONS - 1)])
def test_positions_are_those_that_the_model_prepares(how: type[GenerationMixin], positions: int) -> None:
    frozen, compiled = changed(gpt2(layers=1), how)
    expected = eager_tokens(frozen, IDS, MASK, **SETTINGS)
    assert np.array_equal(compiled.generate(IDS, MASK, **SETTINGS), expected)
    frozen.module.__class__ = type(frozen.module).__mro__[2]
    assert not np.array_equal(eager_tokens(frozen, IDS, MASK, **SETTINGS), expected), "they have to matter"
    with pytest.raises(GenerationError, match=f"the model has {positions} positions"):
        compiled.generate(np.full((1, POSITIONS + 1), 3))


def test_the_frequencies_of_dynamic_rope_change_where_positions_count_padding() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e2, "factor": 4.0}
    model = llama(layers=1, rope_parameters=rope, max_position_embeddings=16)
    frozen, compiled = changed(model, PaddingCounts)
    fits = {"max_new_tokens": 16 - IDS.shape[1]}
    assert np.array_equal(compiled.generate(IDS, MASK, **fits), eager_tokens(frozen, IDS, MASK, **fits))
    wide, mask = np.pad(IDS[1:], ((0, 0), (4, 0))), np.pad(MASK[1:], ((0, 0), (4, 0)))
    with pytest.raises(GenerationError, match="17 tokens with padding, and the model has 16 positions"):
        compiled.generate(wide, mask, max_new_tokens=1)
