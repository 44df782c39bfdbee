"""Example inputs of a transformers model, derived from its config."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tbt_compile.adapters.sources import feature_name, shape_of_config
from tbt_compile.errors import CaptureError

BATCH, SOURCE, TARGET = 2, 7, 5
_LOOKS_FOR_PADDING = ("fsmt",)
"""Model types that branch on padding among decoder tokens, unless their mask is given."""


def example_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Make token ids, a mask with right padding and, for encoder-decoder models, decoder ids.

    Two rows of 7 source and 5 target tokens, the same on every call. An encoder of images or audio gets
    features instead, of the shape that its config tells.

    Raises:
        CaptureError: the config does not tell what the model takes: the user has to pass example inputs.
    """
    accepted = inspect.signature(model.forward).parameters
    vocabulary: int | None = getattr(_text_config(model), "vocab_size", None)
    inputs: dict[str, Tensor] = {}
    of_features = model.config.is_encoder_decoder and feature_name(model) is not None
    if "input_ids" in accepted and vocabulary and not of_features:
        inputs["input_ids"] = _ids(SOURCE, vocabulary)
        if "attention_mask" in accepted:
            mask = torch.ones(BATCH, SOURCE, dtype=torch.int64)
            mask[1, -2:] = 0
            inputs["attention_mask"] = mask
    else:
        name = str(model.main_input_name)
        shape = shape_of_config(model, name)
        if shape is None:
            raise CaptureError(
                f"{type(model).__name__} does not take token ids, and its example inputs cannot be derived "
                "from the config: pass example_inputs={'name': tensor, ...} as its forward takes them"
            )
        inputs[name] = torch.rand(
            BATCH, *shape, generator=torch.Generator().manual_seed(0), dtype=model.dtype
        )
    if model.config.is_encoder_decoder:
        of_decoder = getattr(model.config, "decoder_vocab_size", None) or vocabulary
        inputs["decoder_input_ids"] = _ids(TARGET, min(filter(None, (vocabulary, of_decoder))))
    if model.config.model_type in _LOOKS_FOR_PADDING:
        inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_input_ids"])
    return {name: value.to(model.device) for name, value in inputs.items()}


def _text_config(model: PreTrainedModel) -> Any:
    try:
        return model.config.get_text_config(decoder=True if model.config.is_encoder_decoder else None)
    except ValueError:  # several parts read text
        return model.config


def _ids(length: int, vocabulary: int) -> Tensor:
    """Token ids, int64 `[2, length]`, spread over the vocabulary."""
    return (torch.arange(BATCH * length).view(BATCH, length) * 7 + 3) % vocabulary
