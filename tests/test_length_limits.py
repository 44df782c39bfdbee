"""Positions beyond which a model computes something else are no positions of the compiled model."""

from __future__ import annotations

import pytest
from transformers import GemmaConfig, LlamaConfig, Phi3Config

from tbt_compile.adapters.unit_limits import positions_of

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 16,
}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (Phi3Config(**SIZES, original_max_position_embeddings=16, rope_parameters=LONG, pad_token_id=0), 16),
        (LlamaConfig(**SIZES), 64),
        (GemmaConfig(**SIZES), 64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_long_rope_ends_where_its_frequencies_change(config: object, positions: int) -> None:
    assert positions_of(config) == positions
