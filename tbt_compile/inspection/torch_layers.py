"""The layers of a PyTorch model, in full precision or frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tbt_compile.dtypes import dtype_name
from tbt_compile.inspection.layers import Activation, Layer
from tbt_compile.modules import iter_quantized
from tbt_compile.modules.calls import CallWithWeight
from tbt_compile.modules.frozen import FrozenWeight, is_placeholder
from tbt_compile.modules.interception import split_call
from tbt_compile.passes.prepare.site_plan import SitePlan
from tbt_compile.quantizers import WeightQuantizer
from tbt_compile.quantizers.state import Float32State
from tbt_compile.storage.frozen_quantizers import SUFFIX, kind_of, owner_of


def layers_of(model: nn.Module, dtype: str, macs: Mapping[str, int] | None) -> list[Layer]:
    """One layer per module that holds parameters, buffers or quantizers, or multiplies.

    Args:
        model: unwrapped, in full precision or frozen.
        dtype: of the weights that a frozen model no longer has.
        macs: multiplications by module, without submodules; None if they were not counted.

    Returns:
        The layers in the order of the modules; of several that share a weight, the first one has its
        parameters and bytes.
    """
    found = _Layers(model, getattr(torch, dtype).itemsize)
    for name, module in iter_quantized(model):
        found.add_quantized(name, module)
    for name, module in model.named_modules():
        found.add_tensors(name, module)
    for name, count in (macs or {}).items():
        found.add_macs(name, count)
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    layers = sorted(found.layers.values(), key=lambda layer: order.get(layer.name, len(order)))
    return layers if macs is None else [replace(layer, macs=layer.macs or 0) for layer in layers]


def quantized_layers(model: nn.Module) -> dict[str, str]:
    """The layer that every quantized module is, or belongs to, by the names of both; prepared or frozen."""
    found = _Layers(model, 0)
    for name, module in iter_quantized(model):
        found.add_quantized(name, module)
    return found.labels


@dataclass
class _Layers:
    """Layers by name, as they are found.

    Attributes:
        model: has the layers.
        itemsize: bytes of an element of a weight before it was packed.
        layers: so far.
        labels: the name of the layer that a quantized module belongs to.
        owners: the layer that holds a weight, by the identity of its codes and by the name of its parameter.
        seen: the layer that a tensor is counted in, by its identity.
    """

    model: nn.Module
    itemsize: int
    layers: dict[str, Layer] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    owners: dict[int | str, str] = field(default_factory=dict)
    seen: dict[int, str] = field(default_factory=dict)

    def add_quantized(self, name: str, module: Any) -> None:
        """Add the encodings of a module with quantizers, and its weight if that is packed."""
        label, kind = self._site(name, module)
        self.labels[name] = label
        layer = self.layers.get(label) or Layer(label, kind)
        for child, quantizer in module.named_children():
            encoding = getattr(quantizer, "encoding", None)
            if (
                encoding is None
                or not encoding.quantized
                or isinstance(quantizer, FrozenWeight | WeightQuantizer)
            ):
                continue
            activation = Activation(child.removesuffix(SUFFIX), encoding.value, quantizer.reason)
            layer = replace(layer, activations=(*layer.activations, activation))
        quantizer = getattr(module, "weight_quantizer", None)
        if isinstance(quantizer, FrozenWeight):
            layer = self._with_codes(layer, name, module, quantizer)
        self.layers[label] = layer

    def _site(self, name: str, module: nn.Module) -> tuple[str, str]:
        """The name and kind of the layer that a quantized module is, or belongs to."""
        call = split_call(name)
        if call is None:
            return owner_of({"module": name}), kind_of(module).value
        calls: Any = self.model.get_submodule(name.rpartition(".")[0])
        sites = map(SitePlan.from_dict, calls.sites)
        site = next(site for site in sites if any(made.number == call[1] for made in site.calls))
        known = self.layers.get(site.name)
        taken = known is not None and known.kind != site.kind.value
        return (site.fqn if taken else site.name), site.kind.value

    def _with_codes(self, layer: Layer, name: str, module: nn.Module, quantizer: FrozenWeight) -> Layer:
        layer = replace(layer, weight=quantizer.encoding.value)
        owner = self.owners.setdefault(id(quantizer.packed), layer.name)
        if owner != layer.name:
            return replace(layer, tied_to=owner)
        # Where a call shares its weight with what is in full precision, that counts its elements.
        if isinstance(module, CallWithWeight) and not module.frees:
            return layer
        self.owners[self._tied(f"{name}.weight")] = layer.name
        count = len(quantizer.scale) * quantizer.columns
        before = count * (quantizer.packed.itemsize if quantizer.encoding.half else self.itemsize)
        return replace(
            layer,
            parameters=layer.parameters + count,
            bytes_before=layer.bytes_before + before,
            nominal_bytes=layer.nominal_bytes + count * quantizer.encoding.bits // 8,
        )

    def _tied(self, parameter: str) -> str:
        """The name of the parameter that this one is tied to, or its own."""
        ties = getattr(self.model, "all_tied_weights_keys", None)
        return str(ties.get(parameter, parameter)) if isinstance(ties, Mapping) else parameter

    def add_tensors(self, name: str, module: nn.Module) -> None:
        """Add the parameters and buffers of a module; those of a quantizer go to its layer."""
        quantizer = isinstance(module, Float32State)
        label = self._label(name.rpartition(".")[0] if quantizer else name)
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        tensors = [(key, tensor) for key, tensor in own if not is_placeholder(tensor)]
        if not tensors:
            return
        layer = self.layers.get(label) or Layer(label, _kind(module))
        for key, tensor in tensors:
            if key == "weight" and layer.weight is None and not quantizer:
                owner = self.seen.get(id(tensor))
                layer = replace(layer, weight=dtype_name(tensor.dtype), tied_to=owner)
            if id(tensor) in self.seen:
                continue
            self.seen[id(tensor)] = label
            layer = replace(layer, bytes_after=layer.bytes_after + tensor.nbytes)
            if quantizer:
                continue
            layer = replace(layer, nominal_bytes=layer.nominal_bytes + tensor.nbytes)
            if self._tied(f"{name}.{key}") in self.owners:  # its codes are counted
                continue
            size = self.itemsize if tensor.is_floating_point() else tensor.itemsize
            count = tensor.numel() if isinstance(tensor, nn.Parameter) else 0
            layer = replace(
                layer,
                parameters=layer.parameters + count,
                bytes_before=layer.bytes_before + tensor.numel() * size,
            )
        self.layers[label] = layer

    def add_macs(self, name: str, count: int) -> None:
        """Add the multiplications of a module."""
        label = self._label(name)
        layer = self.layers.get(label) or Layer(label, _kind(self.model.get_submodule(name)))
        self.layers[label] = replace(layer, macs=(layer.macs or 0) + count)

    def _label(self, name: str) -> str:
        return self.labels.get(name, name)


def _kind(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Quantized")
