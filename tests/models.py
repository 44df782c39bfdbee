"""Tiny models, all from configs: shared by the tests of every part."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import tbt_compile

VOCABULARY, WIDTH, INNER, HEADS, LAYERS, POSITIONS = 96, 32, 64, 2, 2, 64
LONG_POSITIONS = 150  # more than two words of packed values
PAD, BOS, EOS = 1, 0, 2
_TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
# A large initial deviation, so that outputs differ between tokens and no comparison is of constants.
_STD = 0.5
_BART_LIKE = {
    **_TOKENS,
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
    "max_position_embeddings": POSITIONS,
    "init_std": _STD,
    "forced_eos_token_id": None,
}
_LLAMA_LIKE = {
    **_TOKENS,
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "max_position_embeddings": POSITIONS,
    "initializer_range": _STD,
}


def bart(layers: int = LAYERS, **options: Any) -> BartForConditionalGeneration:
    return _seeded(
        BartForConditionalGeneration,
        BartConfig(**{**_BART_LIKE, "encoder_layers": layers, "decoder_layers": layers, **options}),
    )


def mbart(layers: int = LAYERS, **options: Any) -> MBartForConditionalGeneration:
    values = {**_BART_LIKE, "decoder_start_token_id": EOS, "scale_embedding": True, **options}
    return _seeded(
        MBartForConditionalGeneration, MBartConfig(**values, encoder_layers=layers, decoder_layers=layers)
    )


def marian(layers: int = LAYERS, **options: Any) -> MarianMTModel:
    values = {**_BART_LIKE, "decoder_start_token_id": PAD, "activation_function": "swish", **options}
    return _seeded(MarianMTModel, MarianConfig(**values, encoder_layers=layers, decoder_layers=layers))


def m2m100(layers: int = LAYERS, **options: Any) -> M2M100ForConditionalGeneration:
    every_layer = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}  # its default skips some in training
    values = {**_BART_LIKE, **every_layer, "decoder_start_token_id": EOS, "scale_embedding": False, **options}
    return _seeded(
        M2M100ForConditionalGeneration, M2M100Config(**values, encoder_layers=layers, decoder_layers=layers)
    )


def t5(layers: int = LAYERS, **options: Any) -> T5ForConditionalGeneration:
    values = {
        "vocab_size": VOCABULARY,
        "d_model": WIDTH,
        "d_kv": WIDTH // HEADS,
        "d_ff": INNER,
        "num_layers": layers,
        "num_heads": HEADS,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": EOS,
        "initializer_factor": 3.0,
    }
    return _seeded(T5ForConditionalGeneration, T5Config(**{**values, **options}))


def t5_gated(layers: int = LAYERS, **options: Any) -> T5ForConditionalGeneration:
    # The weights stay tied: here tie_word_embeddings=False only says that the logits are not scaled.
    return t5(layers, **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **options})


def gpt2(layers: int = LAYERS, **options: Any) -> GPT2LMHeadModel:
    values = {
        **_TOKENS,
        "vocab_size": VOCABULARY,
        "n_positions": POSITIONS,
        "n_embd": WIDTH,
        "n_layer": layers,
        "n_head": HEADS,
        "initializer_range": _STD,
    }
    return _seeded(GPT2LMHeadModel, GPT2Config(**{**values, **options}))


def opt(layers: int = LAYERS, **options: Any) -> OPTForCausalLM:
    values = {
        **_TOKENS,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "num_hidden_layers": layers,
        "ffn_dim": INNER,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "init_std": _STD,
    }
    return _seeded(OPTForCausalLM, OPTConfig(**{**values, **options}))


def llama(layers: int = LAYERS, **options: Any) -> LlamaForCausalLM:
    return _seeded(LlamaForCausalLM, LlamaConfig(**{**_LLAMA_LIKE, "num_hidden_layers": layers, **options}))


def gemma2(layers: int = LAYERS, **options: Any) -> Gemma2ForCausalLM:
    values = {**_LLAMA_LIKE, "head_dim": WIDTH // HEADS, "num_hidden_layers": layers, **options}
    return _seeded(Gemma2ForCausalLM, Gemma2Config(**values))


def _seeded(kind: type[PreTrainedModel], config: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).eval()


Builder = Callable[..., PreTrainedModel]
SEQ2SEQ: dict[str, Builder] = {
    "bart": bart,
    "mbart": mbart,
    "marian": marian,
    "m2m100": m2m100,
    "t5": t5,
    "t5_gated": t5_gated,
}
DECODERS: dict[str, Builder] = {"gpt2": gpt2, "opt": opt, "llama": llama}
FAMILIES: dict[str, Builder] = {**SEQ2SEQ, **DECODERS}


def prepared(family: str, recipe: str = "2-2-2", layers: int = LAYERS) -> Any:
    """A prepared model that has not seen a batch. The capture is done once per process, a call copies."""
    return copy.deepcopy(_prepared(family, recipe, layers))


@functools.cache
def _prepared(family: str, recipe: str, layers: int) -> PreTrainedModel:
    return tbt_compile.prepare(FAMILIES[family](layers=layers), recipe)


def batch(model: PreTrainedModel, rows: int = 3, source: int = 9, target: int = 6) -> dict[str, Tensor]:
    """Token ids, a mask and labels; padded on the right for encoders, on the left for decoders."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (rows, source), generator=generator)
    mask = torch.ones_like(ids)
    if model.config.is_encoder_decoder:
        mask[1, -3:] = 0
        labels = torch.randint(3, VOCABULARY, (rows, target), generator=generator)
    else:
        mask[1, :3] = 0
        labels = ids
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def generate(model: PreTrainedModel, *, beams: int = 3, new_tokens: int = 8, cache: bool = True) -> Tensor:
    """Tokens of a beam search on `batch`, always of the same length."""
    inputs = batch(model)
    return model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        num_beams=beams,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        use_cache=cache,
    )


class MLP(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(torch.relu(self.first(x))))


class Convolutions(nn.Module):
    """A small image classifier; only its head is quantized. x `[B, 3, 12, 12]` -> scores `[B, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Words(nn.Module):
    """Token ids `[B, T]`, features `[B, 16]` and a constant -> a dict of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.norm = nn.LayerNorm(16)

    def forward(self, ids: Tensor, features: Tensor, factor: float = 2.0) -> dict[str, Tensor]:
        hidden = self.norm(self.table(ids).mean(1) + self.inner(features)) * factor
        return {"hidden": hidden, "scores": self.head(F.gelu(hidden))}


class AttentionBlock(nn.Module):
    """Self-attention written out, with an optional boolean mask [B, T]."""

    def __init__(self, width: int = 16, heads: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        mixed = self.dropout(F.softmax(scores, dim=-1)) @ v
        return self.output(mixed.transpose(1, 2).reshape(rows, tokens, width))


class Classifier(nn.Module):
    """An attention block and an MLP behind each other: what a user's own small model looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = AttentionBlock()
        self.norm = nn.LayerNorm(16)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.norm(x + self.attention(x, mask)).mean(1))
