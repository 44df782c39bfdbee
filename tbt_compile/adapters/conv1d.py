"""The quantized form of transformers' Conv1D, the linear layer of GPT-2 with a transposed weight."""

from __future__ import annotations

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer, quantized_linear


class QuantizedConv1D(Conv1D):
    """`Conv1D` on quantized operands: `[..., K] -> [..., N]`.

    Its `weight` is [K, N]: it is quantized transposed, so that each output has a scale of its own. Children:
    `input_quantizer` and `weight_quantizer`.
    """

    input_quantizer: ActivationQuantizer
    weight_quantizer: WeightQuantizer

    def forward(self, x: Tensor) -> Tensor:
        """The product of the quantized input and weight, plus the bias."""
        rows = x.view(-1, x.size(-1))
        output = quantized_linear(
            self.input_quantizer(rows), self.weight_quantizer(self.weight.t()), self.bias
        )
        return output.view(*x.size()[:-1], self.nf)
