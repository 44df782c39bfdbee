"""Refuse a checkpoint whose files do not hold the model that its config describes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from tbt_compile.errors import FormatError, listed

_COUNTS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
_SHOWN = 3
_NUMBER = re.compile(r"\.\d+\.")


def refuse_more_layers(config: PreTrainedConfig, tensors: int, path: str | Path) -> None:
    """Refuse a config with more layers than there are tensors, before a model is made of it.

    Args:
        config: also of several models; a count of layers in any of them is looked at.
        tensors: in the checkpoint.
        path: of the checkpoint, for the error.

    Raises:
        FormatError: a damaged config, of which a model would take for ever to make.
    """
    for part in (config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))):
        for name in _COUNTS:
            layers = getattr(part, name, None)
            if isinstance(layers, int) and layers < 0:
                raise FormatError(f"{path} has a config with {name}={layers}: expected a count of layers")
            if isinstance(layers, int) and layers > tensors:
                raise FormatError(
                    f"{path} holds {tensors} tensors, and its config has {name}={layers}: expected a tensor "
                    "or more for each layer; get config and weights again"
                )


def refuse_missing(missing: Collection[str], path: str | Path) -> None:
    """Refuse a model of which some weights are not in its files: transformers makes them up.

    Args:
        missing: names of parameters that were not read.
        path: of the checkpoint, for the error.

    Raises:
        FormatError: there are some.
    """
    if missing:
        raise FormatError(
            f"{path} lacks weights that its config describes: {listed(sorted(missing), _SHOWN)}; save the "
            "whole model again with save_pretrained, or mend the config"
        )


def refuse_unlike(model: PreTrainedModel, found: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a model that was not read whole, and as it is stored.

    Args:
        model: that transformers has read.
        found: what it says of that, with names of weights.
        path: of the checkpoint, for the error.

    Raises:
        FormatError: weights are missing or have other shapes than the config describes, there are more layers
            than it describes, or a weight holds NaN or infinite numbers.
    """
    refuse_missing(found["missing_keys"], path)
    for name, stored, expected in sorted(found["mismatched_keys"]):
        raise FormatError(
            f"{name} in {path} has the shape {list(stored)}, and its config describes {list(expected)}: get "
            "config and weights again, from one model"
        )
    _refuse_further_layers(model, found["unexpected_keys"], path)
    for name, parameter in model.named_parameters():
        if parameter.numel() and not all(torch.isfinite(bound) for bound in parameter.detach().aminmax()):
            raise FormatError(
                f"{name} in {path} holds NaN or infinite numbers: get the weights again, or train without "
                "overflows"
            )


def _refuse_further_layers(model: PreTrainedModel, unread: Collection[str], path: str | Path) -> None:
    """Refuse weights that have a place in the model but for the number of their layer."""
    kinds = {_NUMBER.sub(".#.", name) for name, _ in model.named_parameters() if _NUMBER.search(name)}
    further = sorted(
        stored
        for stored in unread
        if (not kinds and _NUMBER.search(stored))
        or any(_NUMBER.sub(".#.", name) in kinds for name in _names(stored, model.base_model_prefix))
    )
    if further:
        raise FormatError(
            f"{path} holds layers that its config leaves out, such as {further[0]}: mend the counts of "
            "layers in the config, or save the smaller model with save_pretrained"
        )


def refuse_integers(model: PreTrainedModel, types: Mapping[str, str], path: str | Path) -> None:
    """Refuse weights that are stored as something else than floating-point numbers.

    Args:
        model: that was read.
        types: of the stored tensors by name, as safetensors calls them; with or without the model's prefix.
        path: of the checkpoint, for the error.

    Raises:
        FormatError: there is one; transformers takes it for a number.
    """
    for name, _ in model.named_parameters():
        for stored in _names(name, model.base_model_prefix):
            kind = types.get(stored, "F32")
            if not kind.startswith(("F", "BF")):
                raise FormatError(
                    f"{stored} in {path} has the type {kind}: expected floating-point weights; a quantized "
                    "model needs its quantization_config"
                )


def _names(name: str, prefix: str) -> tuple[str, ...]:
    """The names of a weight in a model and in the model within it, which may be stored by itself."""
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"
