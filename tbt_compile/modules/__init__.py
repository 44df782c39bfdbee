"""Eager modules that hold quantizers, and functions to find them in a prepared model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from tbt_compile.modules.attention import QuantizedAttention
from tbt_compile.modules.calls import QuantizedCall
from tbt_compile.modules.layers import QuantizedEmbedding, QuantizedLinear

ModuleT = TypeVar("ModuleT", bound=nn.Module)

__all__ = [
    "QuantizedAttention",
    "QuantizedCall",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "evaluation_mode",
    "is_prepared",
    "iter_quantized",
]


def iter_quantized(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield every quantized module of a model with its dotted name.

    A linear layer has the quantizers `input_quantizer` and `weight_quantizer`, an embedding
    `weight_quantizer`, an attention core `query`, `key`, `probabilities` and `value`. A quantized call of a
    function has the children of the layer or attention that it stands for.
    """
    for name, module in model.named_modules():
        if isinstance(module, QuantizedAttention | QuantizedCall) or hasattr(module, "weight_quantizer"):
            yield name, module


def evaluation_mode(model: ModuleT) -> ModuleT:
    """Put a model into evaluation mode, also the module of an exported program, which refuses `eval`."""
    for module in model.modules():
        module.training = False
    return model


def is_prepared(model: nn.Module) -> bool:
    """Return whether the model holds quantizers."""
    return next(iter_quantized(model), None) is not None
