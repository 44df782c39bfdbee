"""The dtypes of a checkpoint: which ones can be prepared, and what the manifest says of them.

Codes are integers in any model. Everything else trains in the dtypes of the checkpoint; `freeze` converts it
to float32, in which compiled models compute.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tbt_compile.errors import PlanError
from tbt_compile.quantizers.state import Float32State

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HALVES = (torch.bfloat16, torch.float16)
COMPUTATION = "float32"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in manifests and messages, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def check_dtypes(model: nn.Module) -> None:
    """Refuse a checkpoint whose weights are quantized already.

    Raises:
        PlanError: transformers loaded the model with a quantization config, or the weight of a layer is of
            another dtype than `FLOATS`, or a packed tensor in the guise of one.
    """
    advice = "load it in float32, bfloat16 or float16, or call its dequantize() first"
    packed = getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False) is True
    if packed and not _is_dequantized(model):
        raise PlanError(f"this {type(model).__name__} was loaded with a quantization config: {advice}")
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or (weight.dtype in FLOATS and not is_traceable_wrapper_subclass(weight)):
            continue
        kind = dtype_name(weight.dtype) if weight.dtype not in FLOATS else f"a {type(weight).__name__}"
        raise PlanError(
            f"the weight of {name or 'the model'} in {type(model).__name__} is {kind}: expected one in full "
            f"or half precision; {advice}"
        )


def forget_quantization(model: nn.Module) -> None:
    """Remove what transformers keeps of a GGUF file: with it, it would not save the model."""
    if _is_dequantized(model):
        vars(model.config).pop("quantization_config", None)
        for name in ("hf_quantizer", "is_quantized", "quantization_method"):
            vars(model).pop(name, None)


def _is_dequantized(model: nn.Module) -> bool:
    """Whether the weights come from a GGUF file, whose tensors transformers converts to floats."""
    return getattr(model, "quantization_method", None) == "gguf"


def checkpoint_dtypes(model: nn.Module) -> list[str]:
    """The dtypes of the model's float parameters, the one with most elements first.

    Scales of quantizers, which are float32 in every model, are left out.
    """
    states = (module for module in model.modules() if isinstance(module, Float32State))
    skipped = {id(parameter) for module in states for parameter in module.parameters()}
    elements: Counter[str] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point() and id(parameter) not in skipped:
            elements[dtype_name(parameter.dtype)] += parameter.numel()
    return [name for name, _ in elements.most_common()]


def described(dtypes: list[str]) -> dict[str, Any]:
    """The entry of a manifest: the dtypes of the checkpoint, and the one that the model computes in."""
    return {"checkpoint": dtypes, "computation": COMPUTATION}


def as_float32(value: Any) -> Any:
    """Return a float tensor in float32, and any other value unchanged."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
