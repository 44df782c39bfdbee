"""ProphetNet: its step counts tokens with `int`, and cuts two streams of attention by sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import ProphetNetConfig, ProphetNetForConditionalGeneration

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.errors import GenerationError, LoweringError

VOCABULARY, POSITIONS = 96, 20


def prophetnet(padding: int = 0) -> Any:
    torch.manual_seed(0)
    config = ProphetNetConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        max_position_embeddings=POSITIONS,
        num_buckets=4,
        relative_max_distance=6,
        init_std=0.5,
        pad_token_id=padding,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return ProphetNetForConditionalGeneration(config).eval()


def test_tokens_are_those_of_the_frozen_model() -> None:
    frozen = tbt_compile.freeze(tbt_compile.prepare(prophetnet(), "2-2-8"))
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModel)
    ids = torch.randint(3, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(11) < torch.tensor([[11], [5], [8]])).long()
    longest = POSITIONS - 2  # the second stream is one position ahead, and position 0 is padding
    for beams, rows, prompt in ((1, 3, [[1]]), (3, 3, [[1]]), (1, 1, [[1, 7, 9, 4]])):
        settings = {"num_beams": beams, "max_length": longest, "eos_token_id": None}
        given = torch.tensor(prompt).expand(rows, -1)
        expected = frozen.generate(
            input_ids=ids[:rows],
            attention_mask=mask[:rows],
            decoder_input_ids=given,
            do_sample=False,
            **settings,
        )
        found = compiled.generate(
            ids[:rows].numpy(), mask[:rows].numpy(), decoder_input_ids=given.numpy(), **settings
        )
        np.testing.assert_array_equal(found, expected.numpy())
    with pytest.raises(GenerationError, match="positions: lower max_new_tokens or max_length"):
        compiled.generate(ids.numpy(), max_length=POSITIONS + 1, eos_token_id=None)


def test_a_step_that_transformers_refuses_is_not_compiled() -> None:
    """It checks positions with padding taken for token 0; a graph would go on without the check."""
    frozen = tbt_compile.freeze(tbt_compile.prepare(prophetnet(padding=3), "2-2-8"))
    with pytest.raises(LoweringError, match=r"cannot be run step by step .*position_ids"):
        tbt_compile.lower(frozen)
