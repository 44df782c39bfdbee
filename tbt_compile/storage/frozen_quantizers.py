"""The manifest's description of the quantizers of a frozen model, and their installation from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tbt_compile.adapters import adapter_for
from tbt_compile.encoding import Encoding
from tbt_compile.modules import iter_quantized
from tbt_compile.modules.attention import CHILD, QuantizedAttention
from tbt_compile.modules.calls import QuantizedProductCall, QuantizedSdpaCall
from tbt_compile.modules.computed_weights import compute_weights
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight, drop_float_weights
from tbt_compile.modules.interception import CALLS, Calls, split_call
from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.insert_quantizers import build_activation_quantizer
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.passes.prepare.site_plan import Operand, SitePlan
from tbt_compile.passes.prepare.sites import SiteKind
from tbt_compile.passes.prepare.write_back import WriteBack
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer
from tbt_compile.recipe import Recipe

SUFFIX = "_quantizer"


def describe_quantizers(model: nn.Module) -> list[dict[str, Any]]:
    """Describe every quantized module with the encodings of its operands, as JSON-ready values."""
    described = []
    for name, module in iter_quantized(model):
        operands: dict[str, dict[str, Any]] = {}
        for child, quantizer in module.named_children():
            encoding = getattr(quantizer, "encoding", None)
            if isinstance(quantizer, FrozenWeight):
                rows = quantizer.scale.shape[0]
                shape = [rows, quantizer.columns]
                operands[child] = {"encoding": quantizer.encoding.value, "shape": shape}
                if getattr(module, "bias_added", False):
                    operands[child]["bias"] = True
                if quantizer.scale.shape[1] > 1:
                    operands[child]["groups"] = quantizer.scale.shape[1]
            elif isinstance(quantizer, FrozenActivation):
                operands[child] = {"encoding": quantizer.encoding.value, "center": quantizer.center}
                operands[child] |= _described_input(quantizer)
            elif isinstance(encoding, Encoding):
                operands[child] = {"encoding": encoding.value}
            if getattr(quantizer, "hadamard", 0):
                operands[child]["hadamard"] = quantizer.hadamard
            if getattr(quantizer, "reason", ""):
                operands[child]["why"] = quantizer.reason
        described.append({"module": name, "kind": kind_of(module).value, "operands": operands})
    return described


def _described_input(quantizer: FrozenActivation) -> dict[str, Any]:
    """What few activations have: a floor, an offset, and a norm."""
    described: dict[str, Any] = {"floor": quantizer.floor} if quantizer.floor else {}
    if quantizer.offset is not None:
        described["offset"] = True
    if quantizer.norm is not None:
        norm: Any = quantizer.norm
        described["rms_norm"] = {"size": norm.weight.numel(), "eps": norm.variance_epsilon}
    return described


def describe_calls(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The product calls of every module that makes quantized ones, and the plans of those, by module name."""
    return {
        name.removesuffix(CALLS).removesuffix("."): {"names": list(module.names), "sites": module.sites}
        for name, module in model.named_modules()
        if isinstance(module, Calls)
    }


def kind_of(module: nn.Module) -> SiteKind:
    """What a quantized module computes, as far as its class tells: of a convolution, its product."""
    if isinstance(module, QuantizedAttention | QuantizedProductCall | QuantizedSdpaCall):
        return SiteKind.ATTENTION
    return SiteKind.LINEAR if hasattr(module, "input_quantizer") else SiteKind.EMBEDDING


def owner_of(entry: dict[str, Any]) -> str:
    """Dotted name of the user's module in an entry of `describe_quantizers`."""
    return f".{entry['module']}".removesuffix(f".{CHILD}").removeprefix(".")


def install_quantizers(
    model: nn.Module, recipe: Recipe, described: list[dict[str, Any]], calls: dict[str, dict[str, Any]]
) -> None:
    """Convert the modules as `prepare` does, but with uninitialized frozen quantizers.

    Args:
        model: in full precision, in place.
        recipe: that it was prepared with.
        described: what `describe_quantizers` returned.
        calls: what `describe_calls` returned.
    """
    quantizers: dict[tuple[str, str], nn.Module] = {}
    sites = [SitePlan.from_dict(values) for owned in calls.values() for values in owned["sites"]]
    called = {(site.owner, call.number): site for site in sites for call in site.calls}
    for entry in described:
        call = split_call(entry["module"])
        kind = SiteKind(entry["kind"])
        fqn = called[call].fqn if call else owner_of(entry)
        operands = []
        for child, values in entry["operands"].items():
            operand = child if kind is SiteKind.ATTENTION else child.removesuffix(SUFFIX)
            encoding = Encoding(values["encoding"])
            operands.append(Operand(operand, encoding, "as saved"))
            quantizer = quantizers[fqn, operand] = _empty_quantizer(encoding, values, recipe, operand)
            if isinstance(quantizer, ActivationQuantizer | FrozenActivation):
                quantizer.reason = values.get("why", "")
        if not call:
            sites.append(SitePlan(kind, fqn, tuple(operands)))
    names = {owner: tuple(owned["names"]) for owner, owned in calls.items()}
    write_quantizers(model, recipe, sites, quantizers, names)
    for entry in described:
        weight = entry["operands"].get(f"weight{SUFFIX}", {})
        if weight.get("bias"):
            module: Any = model.get_submodule(entry["module"])
            module.bias_added = True
            module.bias = nn.Parameter(torch.empty(weight["shape"][0]), requires_grad=False)


def write_quantizers(
    model: nn.Module,
    recipe: Recipe,
    sites: list[SitePlan],
    quantizers: dict[tuple[str, str], nn.Module],
    calls: dict[str, tuple[str, ...]],
) -> None:
    """Convert the modules of a model and give them frozen quantizers.

    Args:
        model: in full precision; the float weights of modules with packed ones are dropped.
        recipe: recorded in the config of the model.
        sites: the modules and their operands.
        quantizers: by site and operand.
        calls: the product calls of every module that makes quantized ones.
    """
    plan = QuantPlan(type(model).__name__, recipe, tuple(sites), ())
    context = PrepareContext(
        model, recipe, adapter_for(model), plan=plan, calls={**calls}, quantizers=quantizers
    )
    WriteBack().apply(context)
    compute_weights(model)
    drop_float_weights(model)


def rms_norm(size: int, eps: float) -> nn.Module:
    """The norm inside a linear layer of BitNet, with a weight of ones."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm: nn.Module = LlamaRMSNorm(size, eps=eps)
    return norm


def _empty_quantizer(encoding: Encoding, values: dict[str, Any], recipe: Recipe, operand: str) -> nn.Module:
    if "shape" in values:
        rows, columns = values["shape"]
        return FrozenWeight.empty(encoding, rows, columns, values.get("groups", 1))
    hadamard = values.get("hadamard", 0)
    if "center" in values:
        floor, norm = values.get("floor", 0.0), values.get("rms_norm")
        module = None if norm is None else rms_norm(norm["size"], norm["eps"])
        offset = torch.zeros(1) if values.get("offset") else None
        return FrozenActivation(encoding, values["center"], torch.ones(()), floor, module, hadamard, offset)
    if operand == "weight":
        return WeightQuantizer(encoding)  # not quantized: other weights have a packed shape
    return build_activation_quantizer(Operand(operand, encoding, "", hadamard), recipe)
