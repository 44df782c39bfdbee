"""Frozen quantizers: packed weight codes, and activation scales that no longer train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.codegen.layouts import words_for
from tbt_compile.encoding import Encoding
from tbt_compile.modules.calls import CallWithWeight
from tbt_compile.modules.packed_view import PackedView
from tbt_compile.ops import quantize
from tbt_compile.quantizers import ActivationQuantizer, QuantTensor, WeightQuantizer
from tbt_compile.quantizers.dead_zone import dead_zone_bias
from tbt_compile.quantizers.state import Float32State

ROWS = 1024
"""Rows quantized at a time: float codes of a whole embedding would take several times its memory."""


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class FrozenWeight(Float32State):
    """Replaces a `WeightQuantizer`: ignores the weight that it is given and returns the packed one.

    Parameters (frozen):
        packed: int64 words `[N, planes, ceil(K / 64)]`, or int8 `[N, K]` at 8 bits, or the bits of floats,
            int16 `[N, K]`, in half precision.
        scale: float32 `[N, 1]`, or `[N, G]`, one per group of K / G columns, if it only looks up rows or
            multiplies floats.
    """

    dead_zone = 0.0  # freezing folds it into the bias

    def __init__(self, packed: Tensor, scale: Tensor, encoding: Encoding, columns: int) -> None:
        super().__init__()
        self.encoding, self.columns = encoding, columns
        self.packed = _constant(packed)
        self.scale = _constant(scale)

    @classmethod
    def from_quantizer(cls, quantizer: WeightQuantizer, weight: Tensor) -> FrozenWeight:
        """Quantize the weight, float `[N, K]`, in blocks of rows, which do not depend on each other."""
        frozen, whole = cls.empty(quantizer.encoding, *weight.shape), weight.detach()
        with torch.no_grad():
            for start in range(0, len(weight), ROWS):
                rows = slice(start, start + ROWS)
                codes, scale = quantizer.quantize_rows(whole, rows)
                frozen.packed[rows] = quantize.pack(codes, quantizer.encoding)
                assert scale is not None
                frozen.scale[rows] = scale
        return frozen

    @classmethod
    def empty(cls, encoding: Encoding, rows: int, columns: int, groups: int = 1) -> FrozenWeight:
        """Allocate uninitialized codes and scales, to be loaded later.

        Args:
            encoding: of the codes.
            rows: N.
            columns: K.
            groups: G.

        Returns:
            A frozen weight with undefined values.
        """
        if encoding.planes:
            packed = torch.empty(rows, encoding.planes, words_for(columns), dtype=torch.int64)
        else:
            packed = torch.empty(rows, columns, dtype=torch.int16 if encoding.half else torch.int8)
        return cls(packed, torch.empty(rows, groups), encoding, columns)

    def forward(self, _weight: Tensor | None = None) -> QuantTensor:
        codes = torch.ops.tbt.unpack(self.packed, self.encoding.value, self.columns)
        return QuantTensor(codes, self.scale)

    def rows(self, ids: Tensor) -> Tensor:
        """Real values of the rows with the given indices, float32 `[*ids.shape, K]`."""
        rows: Tensor = torch.ops.tbt.bit_embedding(
            ids, self.packed, self.scale, self.encoding.value, self.columns
        )
        return rows

    def extra_repr(self) -> str:
        return f"{self.encoding.value}, rows={self.packed.shape[0]}, columns={self.columns}"


class FrozenActivation(Float32State):
    """Replaces an `ActivationQuantizer`; `scale` is a float32 scalar, unused at 8 bits.

    `floor`, at 8 bits, is the least that the largest magnitude of a token counts as. A norm, if there is one,
    comes first, as in the linear layers of BitNet (Wang et al. 2023), then a rotation in blocks of `hadamard`
    features (see `tbt_compile.quantizers.hadamard`), unless that is 0; then `offset`, a float32 `[1]`, is
    subtracted. `reason` says why the encoding is
    signed or not, if that is known.
    """

    reason = ""
    offset: nn.Parameter | None

    def __init__(
        self,
        encoding: Encoding,
        center: bool,
        scale: Tensor,
        floor: float = 0.0,
        norm: nn.Module | None = None,
        hadamard: int = 0,
        offset: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.encoding, self.center, self.floor, self.hadamard = encoding, center, floor, hadamard
        self.scale = _constant(scale.detach().clone())
        self.norm = norm
        self.register_parameter("offset", None if offset is None else _constant(offset.detach().clone()))

    @classmethod
    def from_quantizer(cls, quantizer: ActivationQuantizer) -> FrozenActivation:
        """Freeze the current scale of a quantizer."""
        scale = quantizer.effective_scale if quantizer.learned else torch.ones(())
        offset = quantizer.offset if quantizer.learned else None
        frozen = cls(quantizer.encoding, quantizer.center, scale, hadamard=quantizer.hadamard, offset=offset)
        frozen.reason = quantizer.reason
        return frozen

    def normalized(self, x: Tensor) -> Tensor:
        """What is quantized."""
        x = x if self.norm is None else self.norm(x)
        x = torch.ops.tbt.hadamard(x, self.hadamard) if self.hadamard else x
        return x if self.offset is None else x - self.offset

    def forward(self, x: Tensor) -> QuantTensor:
        codes, scale = torch.ops.tbt.quantize(
            self.normalized(x), self.scale, self.encoding.value, self.center, self.floor
        )
        return QuantTensor(codes, scale)

    def extra_repr(self) -> str:
        rotated = f", hadamard={self.hadamard}" if self.hadamard else ""
        return f"{self.encoding.value}, center={self.center}{rotated}"


def fold_dead_zone(module: Any) -> None:
    """Add the dead weights of a linear layer to its bias, see `dead_zone_bias`; without one, it gets one."""
    quantizer, weight = module.weight_quantizer, module.weight_rows
    with torch.no_grad():
        bias = dead_zone_bias(module.bias, weight, quantizer(weight), quantizer.dead_zone)
    assert bias is not None
    module.bias_added = module.bias is None
    module.bias = _constant(bias)


def is_frozen(model: nn.Module) -> bool:
    """Whether the quantizers of a model are frozen ones."""
    return any(isinstance(module, FrozenWeight | FrozenActivation) for module in model.modules())


def drop_float_weights(model: nn.Module) -> None:
    """Replace the float weight of every module that has packed codes by a `PackedView`.

    Other modules that share the parameter, such as a tied projection that the recipe excludes, keep it. A
    weight that a quantized call takes as an argument becomes a tensor without memory.
    """
    calls = [module for module in model.modules() if isinstance(module, CallWithWeight)]
    frozen = [call for call in calls if isinstance(call.weight_quantizer, FrozenWeight)]
    named = dict(model.named_parameters(remove_duplicate=False))
    passed = {id(named[name]) for call in frozen for name in call.parameters_read if name in named}
    for module in model.modules():
        quantizer, weight = getattr(module, "weight_quantizer", None), module._parameters.get("weight")
        if not isinstance(quantizer, FrozenWeight) or weight is None:
            continue
        if id(weight) in passed:
            _empty(module, "weight")
            continue
        transposed = tuple(weight.shape) != (len(quantizer.scale), quantizer.columns)
        del module.weight
        module.__dict__["weight"] = PackedView(quantizer, transposed)
    for call in frozen:
        for name in call.frees:
            owner, _, attribute = name.rpartition(".")
            _empty(model.get_submodule(owner), attribute)


def _empty(module: nn.Module, name: str) -> None:
    """Leave a tensor of the same shape without memory in place of a parameter: a forward passes it on."""
    parameter = module._parameters.pop(name, None)
    if parameter is not None:
        module.register_buffer(name, torch.zeros(()).expand(parameter.shape), persistent=False)


def is_placeholder(tensor: Tensor) -> bool:
    """Whether a tensor stands for a weight that is packed: many elements at one address."""
    return tensor.numel() > 1 and not any(tensor.stride())
