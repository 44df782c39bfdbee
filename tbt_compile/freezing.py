"""`freeze`: from a trained, prepared model to packed codes and scales."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from tbt_compile.adapters import adapter_for
from tbt_compile.errors import PlanError
from tbt_compile.modules import is_prepared, iter_quantized
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.recipe import Recipe


@dataclass(frozen=True)
class FrozenModel:
    """A quantized model that no longer trains: packed codes, scales, and the rest in full precision.

    Attributes:
        module: the user's class of model. It runs in eager mode, and is the reference that a compiled model
            is compared with; no float copy of a quantized weight is in it.
        recipe: what it was quantized with.
    """

    module: nn.Module
    recipe: Recipe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model in eager mode."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate` on the eager model."""
        return self.module.generate(*args, **kwargs)  # type: ignore[operator]

    def save(self, path: str | Path, tokenizer: Any = None) -> Path:
        """Write the model to a folder that any machine can read (see `tbt_compile.storage.model_folder`).

        Args:
            path: the folder; one that holds a saved model is replaced.
            tokenizer: a transformers tokenizer that goes with the model.

        Raises:
            FormatError: something else than a model folder is in the way.
        """
        from tbt_compile.storage.frozen_folder import save_frozen

        return save_frozen(self, Path(path), tokenizer)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in memory, each counted once."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

    def __str__(self) -> str:
        size = self.nbytes / 2**20
        return f"{type(self.module).__name__} frozen at {self.recipe}, {size:.1f} MiB in memory"


def freeze(model: nn.Module) -> FrozenModel:
    """Quantize the weights of a prepared model for the last time and pack them.

    The prepared model is left as it is. Weights that are shared stay shared, as one packed tensor. The
    frozen model is in eval mode and computes exactly what the prepared model does there.

    Raises:
        PlanError: the model is not prepared, or was never run, so that its scales are unknown; or it has
            weights without a packed form (pruned or split).
    """
    if not is_prepared(model):
        raise PlanError(
            f"this {type(model).__name__} has no quantizers: call tbt_compile.prepare(model) and train it, "
            "then freeze it"
        )
    loose = [
        name
        for name, module in iter_quantized(model)
        if isinstance(getattr(module, "weight_quantizer", None), BlockPruner | SplitWeightQuantizer)
    ]
    if loose:
        raise PlanError(
            f"{len(loose)} weights are pruned in blocks or split in two, which has no packed form (the first "
            f"is {loose[0]}): run the prepared model itself"
        )
    unset = [
        name for name, quantizer in _activations(model) if quantizer.learned and not quantizer.initialized
    ]
    if unset:
        raise PlanError(
            f"{len(unset)} activation scales were never set (the first is {unset[0]}): train the model, or "
            "run one batch through it, before freezing"
        )
    recipe = adapter_for(model).stored_recipe(model)
    # Float weights that are to be packed are not copied: the copy loses them in the end.
    shared = {
        id(module.weight): module.weight
        for _, module in iter_quantized(model)
        if _packs(getattr(module, "weight_quantizer", None))
    }
    frozen = copy.deepcopy(model, dict(shared)).eval()
    packed: dict[tuple[int, str], FrozenWeight] = {}
    for _, module in list(iter_quantized(frozen)):
        for name, quantizer in list(module.named_children()):
            if isinstance(quantizer, ActivationQuantizer) and _freezes(quantizer):
                setattr(module, name, FrozenActivation.from_quantizer(quantizer))
            elif _packs(quantizer):
                setattr(module, name, _pack(module, quantizer, packed))
    drop_float_weights(frozen)
    return FrozenModel(frozen.requires_grad_(False), recipe or Recipe())


def drop_float_weights(model: nn.Module) -> None:
    """Set every float weight that has packed codes to None, under each name that the model knows it by."""
    packed = {
        id(module.weight)
        for _, module in iter_quantized(model)
        if isinstance(getattr(module, "weight_quantizer", None), FrozenWeight)
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in packed:
                module.register_parameter(name, None)


def _freezes(quantizer: ActivationQuantizer) -> bool:
    return quantizer.encoding.quantized and quantizer.method == "learned"


def _packs(quantizer: Any) -> TypeGuard[WeightQuantizer]:
    return isinstance(quantizer, WeightQuantizer) and quantizer.packs


def _pack(
    module: nn.Module, quantizer: WeightQuantizer, packed: dict[tuple[int, str], FrozenWeight]
) -> FrozenWeight:
    key = (id(module.weight), quantizer.encoding.value)
    if key not in packed:
        packed[key] = FrozenWeight.from_quantizer(quantizer, module.weight_rows)  # type: ignore[arg-type]
    return packed[key]


def _activations(model: nn.Module) -> Iterator[tuple[str, ActivationQuantizer]]:
    for name, module in model.named_modules():
        if isinstance(module, ActivationQuantizer):
            yield name, module
