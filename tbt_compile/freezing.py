"""`freeze` packs the weights of a trained, prepared model into codes and scales."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.dtypes import COMPUTATION, as_float32
from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.modules import evaluation_mode, is_prepared, iter_quantized
from tbt_compile.modules.calls import CallWithWeight, QuantizedCall, keeping_weights
from tbt_compile.modules.computed_weights import compute_weights, stored_weight
from tbt_compile.modules.frozen import (
    FrozenActivation,
    FrozenWeight,
    drop_float_weights,
    fold_dead_zone,
    is_frozen,
    is_placeholder,
)
from tbt_compile.ops.exact import exact
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.quantizers.weights import StatefulWeightQuantizer
from tbt_compile.recipe import Recipe
from tbt_compile.storage.frozen_folder import describe_frozen, save_frozen

if TYPE_CHECKING:
    from tbt_compile.inspection.layers import Summary


@dataclass(frozen=True)
class FrozenModel:
    """A quantized model that no longer trains: packed codes and scales, the rest in full precision.

    Attributes:
        module: an instance of the user's model class, without the float copies of quantized weights. It
            runs in eager mode, in float32. Calls of the frozen model on the CPU have the bits of the compiled
            model (`tbt_compile.ops.exact`); calls of the module itself have those of PyTorch.
        recipe: the recipe that it was prepared with.
        dtypes: of the checkpoint's float parameters, the one with most elements first.
    """

    module: nn.Module
    recipe: Recipe
    dtypes: list[str] = field(default_factory=lambda: [COMPUTATION])

    def __post_init__(self) -> None:
        description = {**describe_frozen(self.module), "dtypes": self.dtypes}
        adapter_for(self.module).finish_frozen(self.module, self.recipe, description)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model in eager mode; float arguments are converted to float32."""
        args, kwargs = tree_map(as_float32, (args, kwargs))
        with torch.no_grad(), exact():
            return self.module(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run transformers' `generate` on the eager model."""
        with torch.no_grad(), exact():
            return self.module.generate(*args, **kwargs)  # type: ignore[operator]

    def save(self, path: str | Path, tokenizer: Any = None) -> Path:
        """Write the model to a portable folder (see `tbt_compile.storage.model_folder`).

        Args:
            path: the folder; a saved model there is replaced.
            tokenizer: a transformers tokenizer to store with the model.

        Returns:
            The folder.

        Raises:
            FormatError: `path` exists and is not a model folder, or holds files that do not belong to it.
            WriteError: the system refuses: no space, no permission, a bad path.
        """
        return save_frozen(self.module, self.recipe, self.dtypes, Path(path), tokenizer)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in memory; tied tensors count once."""
        tensors = [*self.module.parameters(), *(x for x in self.module.buffers() if not is_placeholder(x))]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

    def __str__(self) -> str:
        """Class, recipe and size, then a row per kind of layer; `summary` has each layer."""
        from tbt_compile.inspection.brief import brief_text

        return brief_text(*self._brief())

    def _repr_html_(self) -> str:
        from tbt_compile.inspection.brief import brief_html

        return brief_html(*self._brief())

    def _brief(self) -> tuple[str, Summary]:
        from tbt_compile.inspection.layers import Summary
        from tbt_compile.inspection.torch_layers import layers_of

        name, size = type(self.module).__name__.removeprefix("Quantized"), self.nbytes / 2**20
        layers = layers_of(self.module, self.dtypes[0], None)
        summary = Summary(name, "frozen", str(self.recipe), tuple(layers), uncounted="to be brief")
        return f"{name} frozen at {self.recipe}, {size:.1f} MiB in memory", summary


def freeze(model: nn.Module | FrozenModel) -> FrozenModel:
    """Quantize the weights of a prepared model one last time and pack them.

    The prepared model is not changed; one in a wrapper (DataParallel, torch.compile) is unwrapped. Tied
    weights become one packed tensor, unless each has learned scales of its own. The frozen model is in eval
    mode and computes in float32. From a float32 model, that is exactly what the prepared model computes in
    eval mode. Other float parameters are converted and keep their values, and codes stay the same. A model
    that is frozen already, such as `from_pretrained` of transformers returns, is itself the module of the
    result; a `FrozenModel` is returned as it is.

    Raises:
        PlanError: the model is not prepared, was never run (its activation scales are unset), or has
            weights without a packed form (pruned or split).
    """
    if isinstance(model, FrozenModel):
        return model
    model = unwrapped(model)
    if not is_frozen(model):
        _check_freezable(model)
    return packed_copy(model)


def packed_copy(model: nn.Module) -> FrozenModel:
    """As `freeze`, of a prepared model that is not ready: unset scales count as 1, weights without a packed
    form stay."""
    adapter = adapter_for(model)
    recipe = adapter.stored_recipe(model)
    if is_frozen(model):
        return FrozenModel(model, recipe or Recipe(), adapter.checkpoint_dtypes(model))
    frozen = _copy_to_pack(model)
    compute_weights(frozen)
    with keeping_weights(frozen):
        _show_weights(frozen)
        _freeze_quantizers(frozen)
    drop_float_weights(frozen)
    adapter.convert_to_float32(frozen)  # only now: the weights that were dropped are the prepared model's
    call_record.restore(frozen, call_record.in_float32(call_record.recorded(frozen)))
    return FrozenModel(frozen.requires_grad_(False), recipe or Recipe(), adapter.checkpoint_dtypes(model))


def _check_freezable(model: nn.Module) -> None:
    if not is_prepared(model):
        raise PlanError(
            f"this {type(model).__name__} has no quantizers: call tbt_compile.prepare(model) and train it, "
            "then freeze it"
        )
    unpackable = [
        name
        for name, module in iter_quantized(model)
        if isinstance(getattr(module, "weight_quantizer", None), BlockPruner | SplitWeightQuantizer)
    ]
    if unpackable:
        raise PlanError(
            f"{len(unpackable)} weights are pruned in blocks or split in two, which has no packed form (the "
            f"first is {unpackable[0]}): run the prepared model itself"
        )
    activations = [item for item in model.named_modules() if isinstance(item[1], ActivationQuantizer)]
    unset = [name for name, quantizer in activations if quantizer.learned and not quantizer.initialized]
    if unset:
        raise PlanError(
            f"{len(unset)} activation scales were never set (the first is {unset[0]}): train the model, or "
            "run one batch through it, before freezing"
        )


def _copy_to_pack(model: nn.Module) -> nn.Module:
    """Copy the model, in eval mode, but share the float weights to be packed: the copy drops them later."""
    packing = {
        module
        for _, module in iter_quantized(model)
        if _packs(getattr(module, "weight_quantizer", None)) and not isinstance(module, QuantizedCall)
    }
    kept = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name != "weight" or module not in packing
    }
    weights = [weight for module in packing if (weight := stored_weight(module)) is not None]
    shared = {id(weight): weight for weight in weights if id(weight) not in kept}
    # What a forward leaves on its module cannot be copied with its history.
    attributes = tree_leaves([dict(vars(module)) for module in model.modules()])
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    memo = {**shared, **{id(value): value.detach() for value in computed}}
    with warnings.catch_warnings():  # torch warns of its own classes in the module of an exported program
        warnings.simplefilter("ignore", FutureWarning)
        try:
            copied = copy.deepcopy(model, dict(memo))
        except TypeError:
            unique = {id(value): value for value in attributes if _is_unique(value)}
            copied = copy.deepcopy(model, memo | unique)
    call_record.restore(copied, call_record.recorded(model))  # a GraphModule copies no attributes
    return evaluation_mode(copied)


def _is_unique(value: Any) -> bool:
    """Whether Python cannot copy a value, such as a lock, a static method or a module: copies share it."""
    try:
        copy.copy(value)
    except TypeError:
        return True
    return False


def _show_weights(model: nn.Module) -> None:
    """Run a model that has calls with weights once, so that each call has seen its weight."""
    if any(isinstance(module, CallWithWeight) for module in model.modules()):
        adapter = adapter_for(model)
        with torch.no_grad():
            try:
                call_record.call_by_name(model, adapter.example_call(model))
            except CaptureError:  # attention may go another way where query, key and value are one tensor
                call_record.call_by_name(model, adapter.example_call(model, shared=True))


def _freeze_quantizers(model: nn.Module) -> None:
    """Replace every quantizer that has a frozen form; tied weights share one packed tensor."""
    packed: dict[tuple[Any, ...], FrozenWeight] = {}
    for _, module in list(iter_quantized(model)):
        if getattr(getattr(module, "weight_quantizer", None), "dead_zone", 0.0):
            fold_dead_zone(module)
        for name, quantizer in list(module.named_children()):
            if isinstance(quantizer, ActivationQuantizer) and _freezes(quantizer):
                setattr(module, name, FrozenActivation.from_quantizer(quantizer))
            elif _packs(quantizer):
                rows = module.weight_rows
                # Strides: a square weight may be tied to its transpose. The owner: each has learned scales.
                owner = quantizer.leader if isinstance(quantizer, StatefulWeightQuantizer) else None
                key = (rows.data_ptr(), rows.shape, rows.stride(), quantizer.encoding, owner)
                if key not in packed:
                    packed[key] = FrozenWeight.from_quantizer(quantizer, rows)
                setattr(module, name, packed[key])


def _freezes(quantizer: ActivationQuantizer) -> bool:
    return quantizer.encoding.quantized and quantizer.method == "learned"


def _packs(quantizer: Any) -> TypeGuard[WeightQuantizer]:
    return isinstance(quantizer, WeightQuantizer) and quantizer.packs
