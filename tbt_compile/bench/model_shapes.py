"""Model shapes by name, and random models and texts: speed does not depend on their values."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tbt_compile.errors import TbtError, did_you_mean

PAD = 1


@dataclass(frozen=True)
class Shape:
    """The shape of an encoder-decoder model.

    Attributes:
        name: the key of `get_shape`.
        family: "bart" (post-norm) or "mbart" (pre-norm).
        vocab_size: tokens.
        width: of the hidden states.
        layers: of the encoder, and as many of the decoder.
        heads: attention heads.
        feed_forward: inner width of the feed-forward layers.
        positions: maximum tokens of a text.
    """

    name: str
    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int = 1024

    def config_fields(self) -> dict[str, Any]:
        """The arguments of `BartConfig` or `MBartConfig`."""
        return {
            "vocab_size": self.vocab_size,
            "d_model": self.width,
            "encoder_layers": self.layers,
            "decoder_layers": self.layers,
            "encoder_attention_heads": self.heads,
            "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": self.feed_forward,
            "decoder_ffn_dim": self.feed_forward,
            "max_position_embeddings": self.positions,
            "bos_token_id": 0,
            "pad_token_id": PAD,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", "bart", 1000, 64, 2, 4, 128, positions=256),
        Shape("bart-base", "bart", 50265, 768, 6, 12, 3072),
        Shape("mbart-large", "mbart", 250054, 1024, 12, 16, 4096),
    )
}


def get_shape(name: str) -> Shape:
    """The shape called `name`.

    Raises:
        TbtError: the shape is unknown; the message has near matches.
    """
    if name not in SHAPES:
        known = ", ".join(SHAPES)
        raise TbtError(f"unknown shape {name!r}; known are {known}.{did_you_mean(name, SHAPES)}")
    return SHAPES[name]


def random_model(shape: Shape) -> Any:
    """A `transformers` model with random weights, in evaluation mode."""
    import torch
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        MBartConfig,
        MBartForConditionalGeneration,
    )

    torch.manual_seed(0)
    fields = shape.config_fields()
    if shape.family == "mbart":
        return MBartForConditionalGeneration(MBartConfig(**fields)).eval()
    return BartForConditionalGeneration(BartConfig(**fields)).eval()


def source_ids(shape: Shape, length: int, number: int = 0) -> list[int]:
    """A source text without padding, whose only special token is the final end token.

    Args:
        shape: its vocabulary.
        length: tokens.
        number: different numbers give different texts.
    """
    spread = range(4, shape.vocab_size)
    return [spread[(7919 * i + 104729 * number) % len(spread)] for i in range(length - 1)] + [2]


def source_texts(shape: Shape, length: int, batch: int, mixed: bool) -> list[list[int]]:
    """A batch of different source texts, the same in every call.

    Args:
        shape: its vocabulary.
        length: tokens of every text; the maximum with `mixed`.
        batch: number of texts.
        mixed: random lengths from a quarter of `length` to all of it.
    """
    lengths = [length] * batch
    if mixed:
        generator = random.Random(0)
        lengths = [generator.randint(max(1, length // 4), length) for _ in range(batch)]
    return [source_ids(shape, each, number) for number, each in enumerate(lengths)]


def padded(texts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Pad token ids on the right; returns ids and mask.

    >>> padded([[5, 6, 2], [7, 2]])
    ([[5, 6, 2], [7, 2, 1]], [[1, 1, 1], [1, 1, 0]])
    """
    width = max(map(len, texts))
    ids = [[*text, *[PAD] * (width - len(text))] for text in texts]
    return ids, [[1] * len(text) + [0] * (width - len(text)) for text in texts]
