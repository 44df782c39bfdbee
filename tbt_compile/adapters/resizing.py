"""Resizing the vocabulary of a model that has quantizers."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tbt_compile.errors import PlanError
from tbt_compile.modules import QuantizedLinear
from tbt_compile.modules.frozen import is_frozen
from tbt_compile.quantizers.learned_rows import LearnedWeightQuantizer


def resize_quantized(model: PreTrainedModel) -> None:
    """Let `resize_token_embeddings` of a model keep its output projection quantized.

    transformers puts a new `nn.Linear` in the place of one that is not tied. The model that is saved would
    then compute other logits than the one that is read back, which is prepared anew.
    """
    model.resize_token_embeddings = partial(_resize, model)


def _resize(model: PreTrainedModel, *args: Any, **kwargs: Any) -> nn.Embedding:
    name, head = type(model).__name__, model.get_output_embeddings()
    if is_frozen(model):
        raise PlanError(f"this {name} is frozen: resize the prepared model, and freeze that")
    embedding: nn.Embedding = type(model).resize_token_embeddings(model, *args, **kwargs)
    resized = model.get_output_embeddings()
    if isinstance(head, QuantizedLinear) and type(resized) is nn.Linear:
        head.weight, head.bias, head.out_features = resized.weight, resized.bias, resized.out_features
        model.set_output_embeddings(head)
    for module in (embedding, model.get_output_embeddings()):
        quantizer = getattr(module, "weight_quantizer", None)
        if isinstance(quantizer, LearnedWeightQuantizer):
            quantizer.resize(module.weight)
    return embedding
