"""Shapes of models trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tbt_compile.errors import did_you_mean
from tbt_compile.training.settings import TrainingError

INIT_GAIN = 0.9
"""Standard deviation of an initial weight times sqrt(width): layers preserve the scale of their input."""


@dataclass(frozen=True)
class ModelSize:
    """Shape of a BART or Llama model.

    Attributes:
        width: of the hidden states.
        layers: of a BART's encoder, and as many of its decoder; a Llama has as many as both.
        heads: attention heads.
        inner: width of the feed-forward layers.
        dropout: probability in training.
    """

    width: int
    layers: int
    heads: int
    inner: int
    dropout: float = 0.0


MODEL_SIZES: dict[str, ModelSize] = {
    "tiny": ModelSize(width=128, layers=2, heads=4, inner=512),
    "wide": ModelSize(width=384, layers=1, heads=6, inner=1536, dropout=0.1),
    "small": ModelSize(width=256, layers=3, heads=4, inner=1024, dropout=0.1),
    "base": ModelSize(width=768, layers=6, heads=12, inner=3072, dropout=0.1),
}


def new_model(
    size: str | ModelSize, tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int = 0
) -> BartForConditionalGeneration:
    """A BART with random weights.

    BART's own initialization (a standard deviation of 0.02) suits models pretrained on large data: with it, a
    small model trained from scratch never learns cross-attention. Embeddings are not scaled by sqrt(width),
    which would drown out the positions and keep the model from learning to copy.

    Args:
        size: a name in `MODEL_SIZES`, or a shape.
        tokenizer: its size and special tokens are the model's.
        max_length: positions of the model, in tokens.
        seed: of the weights.

    Raises:
        TrainingError: the size is unknown.
    """
    size = _shape(size)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.inner,
        decoder_ffn_dim=size.inner,
        max_position_embeddings=max_length,
        init_std=INIT_GAIN / math.sqrt(size.width),
        scale_embedding=False,
        dropout=size.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BartForConditionalGeneration(config)


def new_decoder(
    size: str | ModelSize, tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int = 0
) -> LlamaForCausalLM:
    """A Llama with random weights, as many layers as the BART of this size has in all, and tied embeddings.

    Args:
        size: a name in `MODEL_SIZES`, or a shape; the feed-forward layers have two thirds of its inner width,
            since a Llama's has three matrices where a BART's has two.
        tokenizer: its size and special tokens are the model's.
        max_length: positions of the model, in tokens.
        seed: of the weights.

    Raises:
        TrainingError: the size is unknown.
    """
    size = _shape(size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=max(1, 2 * size.inner // 3),
        num_hidden_layers=2 * size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=max_length,
        initializer_range=INIT_GAIN / math.sqrt(size.width),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _shape(size: str | ModelSize) -> ModelSize:
    if isinstance(size, ModelSize):
        return size
    if size not in MODEL_SIZES:
        raise TrainingError(
            f"unknown model size {size!r}: expected one of {', '.join(MODEL_SIZES)}."
            + did_you_mean(size, MODEL_SIZES)
        )
    return MODEL_SIZES[size]


@dataclass(frozen=True)
class ModelType:
    """A kind of model that can be made from scratch.

    Attributes:
        kind: of its task.
        make: `new_model` or a function with the same arguments.
    """

    kind: str
    make: Callable[..., PreTrainedModel]


MODEL_TYPES = {
    "bart": ModelType("encoder-decoder", new_model),
    "llama": ModelType("decoder-only", new_decoder),
}


def model_type(name: str) -> ModelType:
    """The kind of model of this name.

    Raises:
        TrainingError: there is none.
    """
    if name not in MODEL_TYPES:
        raise TrainingError(
            f"unknown model type {name!r}: expected one of {', '.join(MODEL_TYPES)}."
            + did_you_mean(name, MODEL_TYPES)
        )
    return MODEL_TYPES[name]
