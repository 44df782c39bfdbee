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
    """The shape of a model.

    Attributes:
        name: the key of `get_shape`.
        family: "bart" (post-norm), "mbart" (pre-norm), "llama" or "bitnet"; the last two are decoder-only.
        vocab_size: tokens.
        width: of the hidden states.
        layers: of the encoder, and as many of the decoder.
        heads: attention heads.
        feed_forward: inner width of the feed-forward layers.
        positions: maximum tokens of a text; with a decoder-only model, of the prompt and what follows it.
        key_value_heads: heads of keys and values, in decoder-only models.
    """

    name: str
    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int = 1024
    key_value_heads: int = 0

    @property
    def decoder_only(self) -> bool:
        """Whether there is no encoder: the source texts are prompts."""
        return self.family in ("llama", "bitnet")

    def config_fields(self) -> dict[str, Any]:
        """The arguments of the family's configuration class."""
        tokens = {"vocab_size": self.vocab_size, "max_position_embeddings": self.positions}
        tokens |= {"bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": 2}
        if self.decoder_only:
            return tokens | {
                "hidden_size": self.width,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_value_heads,
                "intermediate_size": self.feed_forward,
            }
        return tokens | {
            "d_model": self.width,
            "encoder_layers": self.layers,
            "decoder_layers": self.layers,
            "encoder_attention_heads": self.heads,
            "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": self.feed_forward,
            "decoder_ffn_dim": self.feed_forward,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", "bart", 1000, 64, 2, 4, 128, positions=256),
        Shape("tiny-llama", "llama", 1000, 256, 2, 4, 256, positions=256, key_value_heads=4),
        Shape("bart-base", "bart", 50265, 768, 6, 12, 3072),
        Shape("mbart-large", "mbart", 250054, 1024, 12, 16, 4096),
        Shape("llama-134m", "llama", 32000, 768, 12, 12, 2048, positions=2048, key_value_heads=12),
        Shape("llama-1b", "llama", 32000, 2048, 16, 32, 5632, positions=2048, key_value_heads=32),
        Shape("bitnet-2b", "bitnet", 128256, 2560, 30, 20, 6912, positions=4096, key_value_heads=5),
    )
}
_FAMILIES = {
    "bart": ("BartConfig", "BartForConditionalGeneration"),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "bitnet": ("BitNetConfig", "BitNetForCausalLM"),
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
    import transformers

    torch.manual_seed(0)
    config, model = (getattr(transformers, name) for name in _FAMILIES[shape.family])
    return model(config(**shape.config_fields())).eval()


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


def padded(texts: Sequence[Sequence[int]], left: bool = False) -> tuple[list[list[int]], list[list[int]]]:
    """Pad token ids; returns ids and mask.

    Args:
        texts: token ids.
        left: pad on the left, as prompts are, instead of on the right.

    >>> padded([[5, 6, 2], [7, 2]])
    ([[5, 6, 2], [7, 2, 1]], [[1, 1, 1], [1, 1, 0]])
    >>> padded([[5, 6, 2], [7, 2]], left=True)
    ([[5, 6, 2], [1, 7, 2]], [[1, 1, 1], [0, 1, 1]])
    """
    width = max(map(len, texts))

    def fill(row: Sequence[int], value: int) -> list[int]:
        padding = [value] * (width - len(row))
        return [*padding, *row] if left else [*row, *padding]

    return [fill(text, PAD) for text in texts], [fill([1] * len(text), 0) for text in texts]
