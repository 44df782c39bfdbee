"""Models without the memory of their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from tbt_compile.adapters.whole_weights import refuse_more_layers
from tbt_compile.errors import FormatError


def weightless(config: PreTrainedConfig, tensors: int, path: str | Path) -> PreTrainedModel:
    """Make the model of a config with parameters that have shapes only; buffers have their values.

    Args:
        config: of the model.
        tensors: in the checkpoint.
        path: of the checkpoint, for errors.

    Raises:
        FormatError: the config names no class of transformers, or more layers than there are tensors.
    """
    refuse_more_layers(config, tensors, path)
    name = (config.architectures or [None])[0]
    kind = getattr(transformers, name, None) if name else None
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise FormatError(
            f"the config names {name or 'no class'}: expected a model class of transformers "
            f"{transformers.__version__} in its architectures"
        )
    try:
        with _parameters_on_meta():
            model: PreTrainedModel = kind(config)
    except Exception as error:  # whatever a class does with a config that is not its own, or is damaged
        raise FormatError(f"the config does not fit {name} ({type(error).__name__}: {error})") from error
    model.tie_weights()
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Drop the memory of each parameter as soon as a module takes it, before it is initialized."""
    register = nn.Module.register_parameter

    def register_shape(module: nn.Module, name: str, parameter: Any) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            module._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    nn.Module.register_parameter = register_shape  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
