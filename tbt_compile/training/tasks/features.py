"""Encoder-decoders of features: speech or images in, text out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tbt_compile.training.tasks.base import Inputs
from tbt_compile.training.tasks.encoder_decoder import EncoderDecoderTask


class FeaturesTask(EncoderDecoderTask):
    """Batches have features, float `[B, ...]`, and `labels` `[B, T]`, -100 at padding.

    The encoder reads windows of one size, so that all its positions count.
    """

    kind = "features to text"

    def takes(self, model: PreTrainedModel) -> bool:
        """Whether the model has a decoder, and an encoder that takes no token ids."""
        return self.has_decoder(model) and model.main_input_name != "input_ids"

    def sources(self, outputs: Any, inputs: Inputs) -> Tensor:
        """Bool `[B, S]`: every position of the encoder's output."""
        labels, length = inputs["labels"], outputs.encoder_last_hidden_state.shape[1]
        return torch.ones((len(labels), length), dtype=torch.bool, device=labels.device)
