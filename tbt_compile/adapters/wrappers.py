"""Models as training code passes them around: in the wrappers of torch and of training libraries.

Every function of the public API works on `unwrapped(model)`. Wrappers are recognized by the names of their
classes: most of the libraries are not installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tbt_compile.errors import PlanError

_INNER = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
_LIBRARIES = ("accelerate", "colossalai", "deepspeed", "fairscale", "lightning", "opacus")
"""Packages whose modules with a child `module` only add to its forward how it is trained."""
_SHARDING = ("FullyShardedDataParallel", "FSDPModule")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's own model inside any number of wrappers; the model itself if there is none.

    Raises:
        PlanError: it is no module, the model is TorchScript, its parameters are sharded, or its adapters
            (LoRA) not merged.
    """
    if not isinstance(model, nn.Module):
        raise PlanError(
            f"{model!r:.80} is no model: expected an nn.Module, such as "
            "AutoModelForSeq2SeqLM.from_pretrained(folder) of transformers returns"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise PlanError("this model is TorchScript, which cannot be captured: pass the nn.Module of it")
    while (inner := _inner(model)) is not None:
        model = inner
    name = type(model).__name__
    if _class_names(model).intersection(_SHARDING):
        raise PlanError(
            f"the parameters of this {name} are sharded: expected whole ones; prepare the model before it is "
            "sharded, and freeze a copy that its full state dict was loaded into"
        )
    if callable(getattr(model, "merge_and_unload", None)):
        raise PlanError(
            f"this {name} has adapters that are not merged: pass what model.merge_and_unload() returns"
        )
    for path, module in model.named_modules():
        if hasattr(module, "base_layer") and callable(getattr(module, "merge", None)):
            raise PlanError(
                f"{path} in this {name} is a layer with an adapter ({type(module).__name__}): merge it with "
                "merge_and_unload() of PEFT first"
            )
    return model


def check_growable(model: nn.Module) -> None:
    """Check that quantizers, which have parameters, can be added to a model inside its wrappers.

    Raises:
        PlanError: a wrapper has taken a list of the parameters that cannot be renewed.
    """
    for wrapper in _wrappers(model):
        name = type(wrapper).__name__
        other_group = _is_distributed(wrapper) and wrapper.process_group is not torch.distributed.group.WORLD
        if other_group or _class_name(type(wrapper)) not in _INNER:
            raise PlanError(
                f"this {name} was made for the parameters of the full-precision model: prepare the model "
                "first, then wrap it"
            )


def renew(model: nn.Module) -> None:
    """Tell every wrapper of a model that it has new parameters and other code.

    DistributedDataParallel reduces the gradients of the parameters that it found when it was made; a compiled
    module holds the code of the old forward.
    """
    for wrapper in _wrappers(model):
        if _is_distributed(wrapper):
            state = wrapper.__getstate__()  # what unpickling renews: the reducer and its hooks
            wrapper.reducer = wrapper.logger = None
            state["_module_parameters"] = [
                parameter
                for name, parameter in wrapper.module.named_parameters()
                if name not in wrapper.parameters_to_ignore
            ]
            wrapper.__setstate__(state)
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in model.modules()):
        torch.compiler.reset()


def _wrappers(model: nn.Module) -> list[Any]:
    """The wrappers of a model, the outermost first."""
    found = []
    while (inner := _inner(model)) is not None:
        found.append(model)
        model = inner
    return found


def _inner(model: nn.Module) -> nn.Module | None:
    """The model inside one wrapper; None for anything else."""
    for kind in type(model).__mro__:
        name = _class_name(kind)
        if name in _INNER:
            return model._modules[_INNER[name]]
        if name.partition(".")[0] in _LIBRARIES and isinstance(model._modules.get("module"), nn.Module):
            return model._modules["module"]
    return None


def _is_distributed(model: nn.Module) -> bool:
    return "DistributedDataParallel" in _class_names(model)


def _class_names(model: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(model).__mro__}


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
