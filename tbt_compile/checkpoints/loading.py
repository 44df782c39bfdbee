"""`from_pretrained` reads a checkpoint with ternary or binary weights as a frozen model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tbt_compile.adapters import adapter_for
from tbt_compile.adapters.pretrained import load_packed
from tbt_compile.checkpoints.bitnet import byte_activation
from tbt_compile.checkpoints.gguf_file import GgufCheckpoint
from tbt_compile.checkpoints.kinds import PACKED, PREPARED, is_gguf, kind_of
from tbt_compile.checkpoints.layers import Layer, read_layers
from tbt_compile.checkpoints.source import Checkpoint, SafetensorsCheckpoint
from tbt_compile.checkpoints.weightless import weightless
from tbt_compile.checkpoints.whole import check_all_used, load_rest
from tbt_compile.dtypes import COMPUTATION, dtype_name
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError, RecipeError
from tbt_compile.freezing import FrozenModel, freeze
from tbt_compile.loading import load
from tbt_compile.passes.prepare.site_plan import Operand, SitePlan
from tbt_compile.passes.prepare.sites import SiteKind
from tbt_compile.passes.prepare.trace_attention import OPERANDS
from tbt_compile.preparation import load_prepared
from tbt_compile.recipe import Recipe
from tbt_compile.storage import model_folder
from tbt_compile.storage.frozen_quantizers import write_quantizers

_REASON = "as the checkpoint has it"
_METHOD = "bitnet"


class NoTernaryWeightsError(FormatError):
    """A checkpoint in full precision."""


def from_pretrained(
    path: str | Path,
    *,
    activation_bits: int | None = None,
    attention_bits: int | None = None,
    embedding_bits: int | None = None,
) -> FrozenModel:
    """Read a model with ternary or binary weights, without any training.

    Weights that are ternary or binary stay as they are, in codes with scales: transformers' BitNet formats
    (`quant_method` "bitnet": packed, offline and online), GGUF files, and any safetensors checkpoint in which
    every weight of a layer is 0 or one magnitude per row, or per group of 16 to 256 columns. Other weights
    keep the 16 or 32 bits that they are stored in. Tensors are read one at a time: the model is never held in
    full precision. A folder of a prepared model is frozen, that of a frozen one loaded.

    The model computes in float32 what transformers computes from the checkpoint in float32. Inputs of
    BitNet's layers are quantized to 8 bits, as there; where only weights are quantized, inputs are not.

    Args:
        path: a folder with a config and safetensors files, or a GGUF file.
        activation_bits: 8 to quantize the inputs of layers with ternary or binary weights per token, where
            the checkpoint does not: several times faster, not the same numbers. Each row of a weight must
            have one scale.
        attention_bits: 8 to quantize queries, keys, values and attention weights per token: the cache takes a
            quarter of the memory and is appended to in place, which long texts need; not the same numbers.
        embedding_bits: 8 to quantize the embeddings and the output projection by row: half of the memory of
            16 bits, not the same numbers.

    Returns:
        A frozen model, to run, save or lower.

    Raises:
        FormatError: the checkpoint cannot be read, has no ternary or binary weights, or does not fit its
            config.
        RecipeError: bits other than 8.
        MissingPackageError: a GGUF file, and no gguf package.
    """
    asked = {
        "activation_bits": activation_bits,
        "attention_bits": attention_bits,
        "embedding_bits": embedding_bits,
    }
    for name, bits in asked.items():
        if bits not in (None, Encoding.INT8.bits):
            raise RecipeError(f"{name}={bits!r}: expected 8, or None to keep what the checkpoint has")
    folder = Path(path)
    saved = _saved(folder)
    if saved is not None:
        if given := [name for name, bits in asked.items() if bits]:
            raise RecipeError(f"{path} has a recipe already: leave {' and '.join(given)} out")
        return saved
    checkpoint: Checkpoint
    checkpoint = GgufCheckpoint(folder) if is_gguf(folder) else SafetensorsCheckpoint(path)
    model = weightless(checkpoint.config, checkpoint.count, path)
    adapter_for(model).check(model)
    _check_method(checkpoint)
    layers = read_layers(model, checkpoint, activation_bits, embedding_bits)
    if not any(layer.weight.encoding.planes and bool(layer.weight.scale.any()) for layer in layers):
        raise NoTernaryWeightsError(
            f"{path} has no ternary or binary weights: expected a BitNet checkpoint, or one whose weights "
            "are 0 or one magnitude per row or group of columns; to quantize this model, call "
            "tbt_compile.prepare and train it"
        )
    recipe = _recipe(layers)
    _write(model, recipe, layers, attention_bits == Encoding.INT8.bits)
    load_rest(model, checkpoint)
    check_all_used(model, checkpoint)
    if checkpoint.generation is not None:
        model.generation_config = checkpoint.generation
    model.name_or_path = str(path)
    dtype = checkpoint.config.dtype
    adapter_for(model).convert_to_float32(model)
    kinds = [dtype_name(dtype) if isinstance(dtype, torch.dtype) else COMPUTATION]
    return FrozenModel(model.eval().requires_grad_(False), recipe, kinds)


def _saved(folder: Path) -> FrozenModel | None:
    """The model that this package saved in a folder, frozen; None if it is another kind of folder."""
    if (folder / model_folder.MANIFEST).is_file():
        model = load(folder)
        if not isinstance(model, FrozenModel):
            raise FormatError(f"{folder} is compiled already: open it with tbt_compile.load")
        return model
    config = folder / "config.json"
    if not config.is_file():
        return None
    try:
        kind = kind_of(json.loads(config.read_text(encoding="utf-8")))
    except ValueError:  # transformers says what is wrong with it
        return None
    if kind == PACKED:
        return freeze(load_packed(folder))
    return freeze(load_prepared(folder)) if kind == PREPARED else None


def _check_method(checkpoint: Checkpoint) -> None:
    config = getattr(checkpoint.config, "quantization_config", None)
    method = config.get("quant_method", "unknown") if isinstance(config, dict) else None
    if method not in (None, _METHOD):
        raise FormatError(
            f"{checkpoint.path} is quantized by the method {method!r}: expected {_METHOD!r}, a GGUF file, or "
            "weights in full or half precision that are ternary"
        )


def _recipe(layers: list[Layer]) -> Recipe:
    """The E-W-A notation of what was found; 16 bits count as not quantized."""
    inputs = [layer for layer in layers if layer.activation is not None]
    tables = [layer for layer in layers if layer.activation is None]
    weights = Counter(layer.weight.encoding.bits for layer in inputs if layer.weight.encoding.planes)
    activations = Counter(
        getattr(layer.activation, "encoding", Encoding.FLOAT).bits
        for layer in inputs
        if layer.weight.encoding.planes
    )
    embedding = max((layer.weight.encoding.bits for layer in tables), default=32)
    return Recipe(
        embedding if embedding <= Encoding.INT8.bits else 32,
        weights.most_common(1)[0][0] if weights else 32,
        activations.most_common(1)[0][0] if activations else 32,
    )


def _write(model: PreTrainedModel, recipe: Recipe, layers: list[Layer], attention: bool) -> None:
    sites = []
    quantizers: dict[tuple[str, str], nn.Module] = {}
    for layer in layers:
        parts: dict[str, Any] = {"weight": layer.weight}
        if layer.activation is not None:
            parts = {"input": layer.activation, **parts}
        operands = tuple(Operand(name, part.encoding, _REASON) for name, part in parts.items())
        kind = SiteKind.EMBEDDING if layer.activation is None else SiteKind.LINEAR
        sites.append(SitePlan(kind, layer.name, operands))
        quantizers |= {(layer.name, name): part for name, part in parts.items()}
    adapter = adapter_for(model)
    found = [item for item in model.named_modules() if adapter.attention_function(item[1]) is not None]
    if attention and not found:
        raise RecipeError(
            f"attention_bits=8: the attention of {type(model).__name__} does not go through transformers' "
            "interface; leave attention_bits out"
        )
    for name, _ in found if attention else ():
        kinds = {part: Encoding.UINT8 if part == "probabilities" else Encoding.INT8 for part in OPERANDS}
        operands = tuple(Operand(part, kind, "asked for") for part, kind in kinds.items())
        sites.append(SitePlan(SiteKind.ATTENTION, name, operands))
        quantizers |= {(name, part): byte_activation(kind) for part, kind in kinds.items()}
    write_quantizers(model, recipe, sites, quantizers, {})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
