"""The quantized form of transformers' Conv1D: GPT-2's linear layer with a transposed weight."""

from __future__ import annotations

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tbt_compile.modules.packed_view import stored_weight
from tbt_compile.modules.whole_operators import whole_linear
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer, quantized_linear
from tbt_compile.quantizers.dead_zone import dead_zone_bias


class QuantizedConv1D(Conv1D):
    """`Conv1D` on quantized operands: `[..., K] -> [..., N]`.

    `weight` is [K, N]; it is quantized transposed, with one scale per output. Children: `input_quantizer`
    and `weight_quantizer`.
    """

    input_quantizer: ActivationQuantizer
    weight_quantizer: WeightQuantizer

    @property
    def weight_rows(self) -> Tensor | None:
        """The weight as [N, K]; None once freezing has replaced it by packed codes."""
        weight = stored_weight(self)
        return None if weight is None else weight.t()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the quantized input by the quantized weight and add the bias."""
        rows = x.view(-1, x.size(-1))
        output = whole_linear(rows, self.input_quantizer, self.weight_quantizer, self.bias)
        if output is None:
            latent = self.weight_rows
            codes, weight = self.input_quantizer(rows), self.weight_quantizer(latent)
            bias = dead_zone_bias(self.bias, latent, weight, self.weight_quantizer.dead_zone)
            output = quantized_linear(codes, weight, bias)
        return output.view(*x.size()[:-1], self.nf)
