"""Example inputs of a transformers model, derived from its config."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tbt_compile.errors import CaptureError

BATCH, SOURCE, TARGET = 2, 7, 5


def example_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Make token ids, a mask with right padding and, for encoder-decoder models, decoder ids.

    Two rows of 7 source and 5 target tokens, the same on every call.

    Raises:
        CaptureError: the model takes no token ids (images, audio): the user has to pass example inputs.
    """
    accepted = inspect.signature(model.forward).parameters
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    if "input_ids" not in accepted or not vocabulary:
        raise CaptureError(
            f"{type(model).__name__} does not take token ids, and its example inputs cannot be derived from "
            "the config: pass example_inputs={'name': tensor, ...} as its forward takes them"
        )
    inputs: dict[str, Tensor] = {"input_ids": _ids(SOURCE, vocabulary)}
    if "attention_mask" in accepted:
        mask = torch.ones(BATCH, SOURCE, dtype=torch.int64)
        mask[1, -2:] = 0
        inputs["attention_mask"] = mask
    if model.config.is_encoder_decoder:
        of_decoder = getattr(model.config, "decoder_vocab_size", None) or vocabulary
        inputs["decoder_input_ids"] = _ids(TARGET, min(vocabulary, of_decoder))
    return {name: value.to(model.device) for name, value in inputs.items()}


def _ids(length: int, vocabulary: int) -> Tensor:
    """Token ids, int64 `[2, length]`, spread over the vocabulary."""
    return (torch.arange(BATCH * length).view(BATCH, length) * 7 + 3) % vocabulary
