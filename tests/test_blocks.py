"""Encoders that attend within blocks: sources of every length are padded to whole blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LongT5Config,
    LongT5ForConditionalGeneration,
    PegasusXConfig,
    PegasusXForConditionalGeneration,
)

import tbt_compile
from tbt_compile import CompiledModel, FrozenModel
from tbt_compile.errors import LoweringError

VOCABULARY, BLOCK = 96, 4
LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 2, 4 * BLOCK)
TOKENS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}


def longt5(attention: str = "local") -> Any:
    """Blocks of 4 tokens; "transient-global" also sums up every 3 tokens."""
    torch.manual_seed(0)
    config = LongT5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        local_radius=BLOCK - 1,
        global_block_size=3,
        encoder_attention_type=attention,
        initializer_factor=4.0,
        **TOKENS,
    )
    return LongT5ForConditionalGeneration(config).eval()


def transient_global() -> Any:
    return longt5("transient-global")


def pegasus_x() -> Any:
    """Blocks of 4 tokens, which start 2 later in the second layer, and 3 tokens that attend to all."""
    torch.manual_seed(0)
    config = PegasusXConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        block_size=BLOCK,
        num_global_tokens=3,
        init_std=0.5,
        **TOKENS,
    )
    return PegasusXForConditionalGeneration(config).eval()


def lowered(model: Any) -> tuple[FrozenModel, CompiledModel]:
    frozen = tbt_compile.freeze(tbt_compile.prepare(model, "2-2-8"))
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModel)
    return frozen, compiled


@pytest.mark.parametrize(
    ("make", "lengths", "block"),
    [
        (longt5, LENGTHS, BLOCK),
        (transient_global, LENGTHS[1:], 3 * BLOCK),  # transformers has no shorter ones than a global block
        (pegasus_x, LENGTHS, BLOCK),
    ],
)
def test_tokens_are_those_of_the_frozen_model_at_every_length(
    make: Any, lengths: tuple[int, ...], block: int
) -> None:
    frozen, compiled = lowered(make())
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(batch.shape[1]) < torch.tensor(lengths)[:, None]).long()
    sources = [(row[None], torch.ones_like(row[None])) for row in rows]
    sources += [(batch[:, :length], mask[:, :length]) for length in (3 * BLOCK + 2, 4 * BLOCK)]
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 8}
        expected = [
            frozen.generate(input_ids=ids, attention_mask=kept, **settings, do_sample=False).numpy()
            for ids, kept in sources
        ]
        for (ids, kept), tokens in zip(sources, expected, strict=True):
            np.testing.assert_array_equal(compiled.generate(ids.numpy(), kept.numpy(), **settings), tokens)
        outputs = compiled.generate_many([row.tolist() for row in rows], **settings)
        for output, tokens in zip(outputs, expected, strict=False):
            np.testing.assert_array_equal(output, tokens[0, : len(output)])
    assert len({tuple(tokens[0]) for tokens in expected}) > 3
    longest = rows[-1][None, 1:].numpy()
    assert compiled.encode(longest).shape == (1, -(-longest.shape[1] // block) * block, 32)


class Added(nn.Module):
    """Adds something to a norm's output that attention to padding, or a size, changes."""

    def __init__(self, norm: nn.Module, by_length: bool) -> None:
        super().__init__()
        self.norm, self.by_length = norm, by_length

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.by_length:
            return x * 2 if x.shape[0] < x.shape[1] else x
        return x + x.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("by_length", "message"),
    [
        (False, "LongT5ForConditionalGeneration attends within blocks of 4 tokens, and padding a source"),
        (True, "LongT5ForConditionalGeneration was captured for calls where"),
    ],
)
def test_an_encoder_that_padding_changes_is_refused(by_length: bool, message: str) -> None:
    model = longt5()
    model.encoder.final_layer_norm = Added(model.encoder.final_layer_norm, by_length)
    frozen = tbt_compile.freeze(tbt_compile.prepare(model, "2-2-8"))
    with pytest.raises(LoweringError, match=message):
        tbt_compile.lower(frozen)
