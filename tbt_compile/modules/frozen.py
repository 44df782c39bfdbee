"""What a quantizer becomes when a model is frozen: packed weight codes, and a scale that no longer trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbt_compile.codegen.layouts import words_for
from tbt_compile.encoding import Encoding
from tbt_compile.ops import quantize
from tbt_compile.quantizers import ActivationQuantizer, QuantTensor, WeightQuantizer

ROWS = 1024
"""Rows that are quantized at a time: all codes of a large vocabulary would take several times its memory."""


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class FrozenWeight(nn.Module):
    """Takes the place of a `WeightQuantizer`: returns the packed codes whatever weight it is given.

    Parameters (none of them trains):
        packed: int64 words `[N, planes, ceil(K / 64)]`, or int8 `[N, K]` for 8 bits.
        scale: float32 `[N, 1]`.
    """

    def __init__(self, packed: Tensor, scale: Tensor, encoding: Encoding, columns: int) -> None:
        super().__init__()
        self.encoding, self.columns = encoding, columns
        self.packed = _constant(packed)
        self.scale = _constant(scale)

    @classmethod
    def from_quantizer(cls, quantizer: WeightQuantizer, weight: Tensor) -> FrozenWeight:
        """Quantize the weight `[N, K]` for the last time; rows do not depend on each other."""
        frozen = cls.empty(quantizer.encoding, *weight.shape)
        with torch.no_grad():
            for start in range(0, len(weight), ROWS):
                rows = slice(start, start + ROWS)
                codes, scale = quantizer(weight.detach()[rows].float())
                frozen.packed[rows] = quantize.pack(codes, quantizer.encoding)
                frozen.scale[rows] = scale
        return frozen

    @classmethod
    def empty(cls, encoding: Encoding, rows: int, columns: int) -> FrozenWeight:
        """A place for packed codes that come later."""
        if encoding is Encoding.INT8:
            packed = torch.empty(rows, columns, dtype=torch.int8)
        else:
            packed = torch.empty(rows, encoding.planes, words_for(columns), dtype=torch.int64)
        return cls(packed, torch.empty(rows, 1), encoding, columns)

    def forward(self, _weight: Tensor | None = None) -> QuantTensor:
        codes = torch.ops.tbt.unpack(self.packed, self.encoding.value, self.columns)
        return QuantTensor(codes, self.scale)

    def extra_repr(self) -> str:
        return f"{self.encoding.value}, rows={self.packed.shape[0]}, columns={self.columns}"


class FrozenActivation(nn.Module):
    """Takes the place of an `ActivationQuantizer`; `scale` is a float32 scalar (unused at 8 bits)."""

    def __init__(self, encoding: Encoding, center: bool, scale: Tensor) -> None:
        super().__init__()
        self.encoding, self.center = encoding, center
        self.scale = _constant(scale.detach().clone())

    @classmethod
    def from_quantizer(cls, quantizer: ActivationQuantizer) -> FrozenActivation:
        """Keep the scale as training left it."""
        scale = quantizer.effective_scale if quantizer.learned else torch.ones(())
        return cls(quantizer.encoding, quantizer.center, scale)

    def forward(self, x: Tensor) -> QuantTensor:
        return QuantTensor(*torch.ops.tbt.quantize(x, self.scale, self.encoding.value, self.center))

    def extra_repr(self) -> str:
        return f"{self.encoding.value}, center={self.center}"


def drop_float_weights(model: nn.Module) -> None:
    """Set every float weight that has packed codes to None, under each name that the model knows it by."""
    packed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(getattr(module, "weight_quantizer", None), FrozenWeight)
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in packed:
                module.register_parameter(name, None)
