"""Which linear layers a recipe rotates, and the rotation of their weights, which is its own inverse.

Both go by names alone: a folder keeps the recipe, and its weights as they were trained, rotated. Whoever
reads them without quantizers has to rotate them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tbt_compile.errors import PlanError, did_you_mean
from tbt_compile.modules.computed_weights import stored_weight
from tbt_compile.passes.prepare.site_plan import excluded_by
from tbt_compile.quantizers.hadamard import block_size, butterflies
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from tbt_compile.adapters.base import Adapter


def rotated_layers(model: nn.Module, adapter: Adapter, recipe: Recipe) -> dict[str, int]:
    """The size of the blocks of every layer whose input and weight `recipe.hadamard` rotates, by name.

    Args:
        model: in full precision or prepared.
        adapter: of the model; tells which modules are linear layers.
        recipe: its patterns, and those of what it excludes.

    Returns:
        Powers of two.

    Raises:
        PlanError: a pattern matches no linear layer, or the features of a layer are odd in number.
    """
    linear = {
        name: module
        for name, module in model.named_modules()
        if recipe.hadamard and _is_linear(module, adapter)
    }
    for pattern in recipe.hadamard:
        if not any(excluded_by(name, (pattern,)) for name in linear):
            raise PlanError(
                f"the recipe's hadamard pattern {pattern!r} matches no linear layer of this "
                f"{type(model).__name__}: expected patterns of names such as '*.fc2'"
                + did_you_mean(pattern, [*linear])
            )
    blocks = {}
    for name, module in linear.items():
        if not excluded_by(name, recipe.hadamard) or excluded_by(name, recipe.exclude):
            continue
        features = module.weight.shape[0 if _is_transposed(module, adapter) else 1]
        blocks[name] = block_size(features)
        if blocks[name] == 1:
            raise PlanError(
                f"the recipe's hadamard names {name!r}, with {features} inputs: expected an even number; "
                "narrow the pattern"
            )
    return blocks


@torch.no_grad()
def rotate_weights(model: nn.Module, adapter: Adapter, blocks: Mapping[str, int]) -> None:
    """Multiply the weights of layers by the rotation of their inputs, in place; twice gives them back.

    Args:
        model: in full precision or prepared.
        adapter: of the model.
        blocks: sizes of the blocks, by the name of the layer.

    Raises:
        PlanError: a weight is no parameter of its layer alone; no weight is changed then.
    """
    for name in blocks:
        check_own_weight(model, name)
    for name, block in blocks.items():
        rows = _weight_rows(model.get_submodule(name), adapter)
        rows.copy_(butterflies(rows, block))


def rotate_back(model: nn.Module, adapter: Adapter, recipe: Recipe | None) -> None:
    """Make latent weights that were trained with a recipe those of a model without quantizers, in place.

    Args:
        model: holds the weights.
        adapter: of the model.
        recipe: that they were trained with; None if they never were rotated.
    """
    if recipe is not None:
        rotate_weights(model, adapter, rotated_layers(model, adapter, recipe))


def check_own_weight(model: nn.Module, name: str) -> None:
    """Refuse to rotate the weight of a layer that another one reads, or that is computed.

    Raises:
        PlanError: it is.
    """
    advice = "rotate only layers with weights of their own, or leave it out of the recipe's hadamard"
    weight = stored_weight(model.get_submodule(name))
    if weight is None:
        raise PlanError(f"the weight of {name!r} is computed from other parameters: {advice}")
    place = weight.untyped_storage().data_ptr()
    for other, parameter in model.named_parameters(remove_duplicate=False):
        if other != f"{name}.weight" and place and parameter.untyped_storage().data_ptr() == place:
            raise PlanError(f"the weight of {name!r} is shared with {other}: {advice}")


def _is_linear(module: nn.Module, adapter: Adapter) -> bool:
    form = adapter.quantized_form(module)
    return form is not None and not issubclass(form, nn.Embedding)


def _weight_rows(module: nn.Module, adapter: Adapter) -> Tensor:
    """The weight as [N, K], a view of the parameter."""
    form: Any = adapter.quantized_form(module)
    rows: Tensor = form.weight_rows.fget(module)
    return rows


def _is_transposed(module: nn.Module, adapter: Adapter) -> bool:
    """Whether the weight is [K, N]."""
    form: Any = adapter.quantized_form(module)
    return not issubclass(form, nn.Linear)
