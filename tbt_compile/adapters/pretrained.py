"""Round trip of prepared models through transformers' `save_pretrained` folders.

`config.json` holds the recipe in its `quantization_config`; the weight files hold the scales of the
quantizers. What is read here is the full-precision model, without the scales; `prepare` restores them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from tbt_compile.adapters.auto_class import generator_class
from tbt_compile.adapters.checkpoint_files import (
    read_generation,
    reason_of,
    saved_tensors,
    stored_types,
    weight_files,
)
from tbt_compile.adapters.quantization_config import TbtConfig, quantization_of, set_quantization
from tbt_compile.adapters.whole_weights import refuse_integers, refuse_more_layers, refuse_unlike
from tbt_compile.errors import FormatError, TbtError
from tbt_compile.modules import iter_quantized
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer
from tbt_compile.recipe import Recipe

log = logging.getLogger(__name__)


def stored_recipe(config: PreTrainedConfig) -> Recipe | None:
    """Return the recipe in a config, or None if the config is not of a prepared model."""
    found = quantization_of(config)
    return None if found is None else found.recipe


def restore_quantizers(model: PreTrainedModel) -> bool:
    """Load the quantizers' state from the folder that the model came from; returns whether it was loaded.

    Scales belong to the weights that they were trained with. A model whose quantized weights differ from
    those in the folder (built from a config only, or trained further) keeps its scales, with a warning. A
    model may be read in another dtype: weights are compared in the dtype of the model.

    Raises:
        FormatError: the folder holds the same weights but lacks some scales.
    """
    quantizers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ActivationQuantizer | WeightQuantizer)
    }
    states = {name: [f"{name}.{key}" for key in module.state_dict()] for name, module in quantizers.items()}
    quantized = {f"{name}.weight" for name, _ in iter_quantized(model)}
    weights = {name: weight for name, weight in model.state_dict().items() if name in quantized}
    folder = str(model.name_or_path)
    saved = saved_tensors(folder, [*weights, *(key for keys in states.values() for key in keys)])
    stored = {key: weight for key, weight in weights.items() if key in saved}
    other = [key for key, weight in (stored or weights).items() if not _same(saved.get(key), weight)]
    if other:
        if weight_files(folder):
            log.warning(
                "the scales in %s are not restored: they belong to other weights than those of this %s (the "
                "first is %s); train the model, or run a batch through it",
                folder,
                type(model).__name__,
                other[0],
            )
        return False
    for name, module in quantizers.items():
        missing = [key for key in states[name] if key not in saved]
        kinds = model.config.architectures or []
        if missing and type(model).__name__ not in kinds and kinds:
            raise FormatError(
                f"{folder} was saved from a {kinds[0]}, and has no scales for {name}: load it by "
                f"{kinds[0]}.from_pretrained, or load its weights without quantizers and prepare that"
            )
        if missing:
            raise FormatError(
                f"{folder} has the weights of this prepared model but no {missing[0]!r}: expected all scales "
                "of its quantizers; save the prepared model again with save_pretrained"
            )
        module.load_state_dict({key.removeprefix(f"{name}."): saved[key] for key in states[name]})
    return True


def has_saved_weights(model: PreTrainedModel, layers: Iterable[str]) -> bool:
    """Whether the weights of layers are those in the folder that the model came from, in its dtype."""
    weights = {f"{name}.weight": model.get_submodule(name).weight for name in layers}
    saved = saved_tensors(str(model.name_or_path), weights)
    return all(_same(saved.get(key), weight.detach()) for key, weight in weights.items())


def _same(stored: Tensor | None, weight: Tensor) -> bool:
    """Whether a weight has the stored values, as `from_pretrained` converts them to its dtype."""
    return stored is not None and torch.equal(stored.to(weight.dtype), weight.cpu())


def load_float(folder: str | Path) -> PreTrainedModel:
    """Load the full-precision model from the folder of a prepared model, without quantizers.

    Raises:
        FormatError: the folder does not exist or was not saved from a prepared model.
    """
    config, quantization = _quantized_config(folder)
    _refuse_frozen(folder, config)
    model = _load_as_stored(_class_of(config), folder, config)
    set_quantization(model.config, quantization)
    return model


def load_packed(folder: str | Path) -> PreTrainedModel:
    """Load a frozen model from a folder that its `save_pretrained` wrote.

    Raises:
        FormatError: the folder does not exist, or holds no frozen model.
    """
    config, _ = _quantized_config(folder)
    model: PreTrainedModel = _class_of(config).from_pretrained(folder)
    return model


def read_config(folder: str | Path) -> PreTrainedConfig:
    """Read the config of a folder, or of a repository of the hub.

    Raises:
        FormatError: there is none, or it is damaged.
    """
    try:
        with _errors_only():
            config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises many unrelated types for one cause
        raise FormatError(
            f"{folder} cannot be read ({reason_of(error)}): expected a model that save_pretrained wrote"
        ) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def _quantized_config(folder: str | Path) -> tuple[PreTrainedConfig, TbtConfig]:
    """The config of a prepared or frozen model, and its quantization."""
    try:
        config = read_config(folder)
    except FormatError as error:
        raise FormatError(
            f"{folder} has no model to load: expected a folder written by save_pretrained"
        ) from error
    quantization = quantization_of(config)
    if quantization is None or not config.architectures:
        raise FormatError(
            f"{folder} was not saved from a prepared model: its config names no recipe; load it with "
            "from_pretrained and call prepare with a recipe"
        )
    return config, quantization


def _class_of(config: PreTrainedConfig) -> Any:
    """The class of transformers that a config names first."""
    return getattr(transformers, config.architectures[0])


def load_generator(folder: str | Path) -> PreTrainedModel:
    """Load a full-precision model that generates text, with or without an encoder, in evaluation mode.

    The folder of a prepared model gives its weights without quantizers.

    Raises:
        FormatError: the folder holds another kind of model, or cannot be read.
    """
    with _reading(folder):
        config = read_config(folder)
        _refuse_frozen(folder, config)
        known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        other = [name for name in config.architectures or () if name not in known]
        if not config.is_encoder_decoder and other:
            raise FormatError(
                f"{folder} holds a {other[0]}, which does not generate text: expected an encoder-decoder or "
                "decoder-only model; prepare and lower others from Python"
            )
        model = _load_without_quantizers(generator_class(config), folder, config)
    return model.eval()


def load_pretrained(folder: str | Path) -> PreTrainedModel:
    """Load a full-precision model in evaluation mode, of the class that its config names.

    A config without a class is that of a model that generates text. The folder of a prepared model gives its
    weights without quantizers.

    Raises:
        FormatError: the folder cannot be read.
    """
    with _reading(folder):
        config = read_config(folder)
        _refuse_frozen(folder, config)
        names = config.architectures or []
        found = getattr(transformers, names[0], None) if names else None
        if found is not None:
            return _load_without_quantizers(found, folder, config).eval()
    return load_generator(folder)


def is_quantized(folder: str | Path) -> bool:
    """Whether a folder holds a prepared or frozen model."""
    with _reading(folder):
        return quantization_of(read_config(folder)) is not None


def _refuse_frozen(folder: str | Path, config: PreTrainedConfig) -> None:
    quantization = quantization_of(config)
    if quantization is not None and quantization.frozen is not None:
        raise FormatError(
            f"{folder} holds a frozen model, whose weights are packed: load it with from_pretrained of "
            "transformers or of tbt_compile"
        )


@contextmanager
def _reading(folder: str | Path) -> Iterator[None]:
    """Turn the errors of reading a model's folder into one of a sentence, and keep transformers quiet."""
    try:
        with _errors_only():
            yield
    except (TbtError, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # transformers raises many unrelated types for one cause
        raise FormatError(
            f"{folder} cannot be read ({reason_of(error)}): expected a model that save_pretrained wrote"
        ) from error


def _load_without_quantizers(loader: Any, folder: str | Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Load a model without its quantizers; weights that they expect rotated are rotated back."""
    from tbt_compile.adapters import adapter_for
    from tbt_compile.passes.prepare.rotated_weights import rotate_back

    recipe = stored_recipe(config)
    model = _load_as_stored(loader, folder, config)
    rotate_back(model, adapter_for(model), recipe)
    return model


def _load_as_stored(loader: Any, folder: str | Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Call `loader.from_pretrained`, with no quantization by this package in the config.

    Raises:
        FormatError: the weights are not those that the config describes, or a file is damaged.
    """
    if quantization_of(config) is not None:
        set_quantization(config, None)
    types = stored_types(str(folder))
    if types is not None:
        refuse_more_layers(config, len(types), folder)
    read_generation(str(folder))
    with _errors_only():
        model, found = loader.from_pretrained(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    assert isinstance(model, PreTrainedModel)
    refuse_unlike(model, found, folder)
    refuse_integers(model, types or {}, folder)
    return model


@contextmanager
def _errors_only() -> Iterator[None]:
    """Keep transformers from reporting every scale as an unexpected weight."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
