"""LED: its encoder attends within a window on both sides, and when it is compiled to nothing beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LEDConfig, LEDForConditionalGeneration

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.errors import CaptureError, GenerationError

VOCABULARY, WINDOW, POSITIONS = 96, 4, 38


def led() -> Any:
    """Windows of 4 and 8 tokens; positions end within a window."""
    torch.manual_seed(0)
    config = LEDConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        attention_window=[WINDOW, 2 * WINDOW],
        max_encoder_position_embeddings=POSITIONS,
        max_decoder_position_embeddings=32,
        init_std=0.5,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return LEDForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def models() -> tuple[Any, CompiledModel]:
    frozen = tbt_compile.freeze(tbt_compile.prepare(led(), "2-2-8"))
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModel)
    return frozen, compiled


@pytest.mark.parametrize("lengths", [(1,), (7,), (8,), (9,), (32,), (14, 3, 8, 9)])
def test_tokens_are_those_of_the_frozen_model(
    models: tuple[Any, CompiledModel], lengths: tuple[int, ...]
) -> None:
    frozen, compiled = models
    width = max(lengths)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 8}
        expected = frozen.generate(input_ids=ids, attention_mask=mask, **settings, do_sample=False)
        np.testing.assert_array_equal(
            compiled.generate(ids.numpy(), mask.numpy(), **settings), expected.numpy()
        )


def test_global_attention_is_refused(models: tuple[Any, CompiledModel]) -> None:
    _, compiled = models
    ids = np.full((1, 8), 5)
    with pytest.raises(GenerationError, match="global_attention_mask"):
        compiled.generate(ids, global_attention_mask=np.ones_like(ids))
    with pytest.raises(GenerationError, match="attention_mask holds other values than 0 and 1"):
        compiled.generate(ids, np.full_like(ids, 2))


def test_sources_end_with_the_last_whole_window(models: tuple[Any, CompiledModel]) -> None:
    _, compiled = models
    with pytest.raises(GenerationError, match="the source has 33 tokens, and the model has 32 positions"):
        compiled.generate(np.full((1, 33), 5))


def test_a_call_with_global_attention_cannot_be_captured() -> None:
    ids = torch.randint(3, VOCABULARY, (2, 8))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids[:, :3]}
    with pytest.raises(CaptureError, match="by the values of a tensor"):
        tbt_compile.prepare(
            led(), "2-2-8", example_inputs={**inputs, "global_attention_mask": torch.ones_like(ids)}
        )
