"""Weights that a layer computes from other parameters become plain ones before they are packed.

`torch.nn.utils.parametrizations` make `weight` a property; the older `weight_norm` and `spectral_norm`, and
`torch.nn.utils.prune`, assign it in a hook before every forward, so that between forwards it may be stale.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from tbt_compile.errors import PlanError
from tbt_compile.modules import iter_quantized
from tbt_compile.modules.calls import QuantizedCall
from tbt_compile.modules.family import quantized_class

_REMOVERS = (
    (WeightNorm, lambda hook, module: remove_weight_norm(module, hook.name)),
    (SpectralNorm, lambda hook, module: remove_spectral_norm(module, hook.name)),
    (prune.BasePruningMethod, lambda hook, module: prune.remove(module, hook._tensor_name)),
)


def compute_weights(model: nn.Module) -> None:
    """Replace every computed weight of a quantized layer by a parameter with its current value, in place.

    Raises:
        PlanError: something else computes the weight.
    """
    for name, module in iter_quantized(model):
        if isinstance(module, QuantizedCall) or not hasattr(module, "weight_quantizer"):
            continue
        if parametrize.is_parametrized(module):
            _remove_parametrizations(module)
        for hook in list(module._forward_pre_hooks.values()):
            for kind, remove in _REMOVERS:
                if isinstance(hook, kind):
                    remove(hook, module)
        if stored_weight(module) is None:
            raise PlanError(
                f"the weight of {name!r} is no parameter, so its final value is unknown: compute it with a "
                "torch.nn.utils.parametrize module, or exclude the layer in the recipe"
            )


def stored_weight(module: nn.Module) -> nn.Parameter | None:
    """The weight of a layer if it is a parameter; None if it is computed or gone."""
    return module._parameters.get("weight")


def _remove_parametrizations(module: Any) -> None:
    """As `torch.nn.utils.parametrize.remove_parametrizations`, which changes the class for copies too."""
    values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    parametrized, quantized, outermost = module._family
    (original,) = parametrized.__bases__
    del module.parametrizations
    module.__class__ = quantized_class(original, quantized, outermost=outermost)
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))
