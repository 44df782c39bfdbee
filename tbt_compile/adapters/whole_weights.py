"""Refuse a checkpoint whose config describes more of a model than its files hold."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedConfig

from tbt_compile.errors import FormatError

_COUNTS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
_SHOWN = 3


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
        named = ", ".join(sorted(missing)[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise FormatError(
            f"{path} lacks weights that its config describes: {named}{more}; save the whole model again with "
            "save_pretrained, or mend the config"
        )
