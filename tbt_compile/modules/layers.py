"""The quantized forms of `nn.Linear` and `nn.Embedding`."""

from __future__ import annotations

from torch import Tensor, nn

from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer, quantized_embedding, quantized_linear


class QuantizedLinear(nn.Linear):
    """`nn.Linear` on quantized operands: `[..., K] -> [..., N]`.

    Children: `input_quantizer` and `weight_quantizer`. `weight` [N, K] and `bias` stay trainable parameters
    in full precision under their own names.
    """

    input_quantizer: ActivationQuantizer
    weight_quantizer: WeightQuantizer

    @property
    def weight_rows(self) -> Tensor | None:
        """The weight as [N, K]; None once its float values have been dropped for packed ones."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        """The product of the quantized input and weight, plus the bias."""
        return quantized_linear(
            self.input_quantizer(input), self.weight_quantizer(self.weight_rows), self.bias
        )


class QuantizedEmbedding(nn.Embedding):
    """`nn.Embedding` whose rows are quantized: int64 `[...]` -> `[..., D]`.

    Child: `weight_quantizer`. `weight` [N, D] stays a trainable parameter in full precision.
    """

    weight_quantizer: WeightQuantizer

    @property
    def weight_rows(self) -> Tensor | None:
        """The weight as [N, D]; None once its float values have been dropped for packed ones."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the quantized weight, as real values."""
        return quantized_embedding(input, self.weight_quantizer(self.weight_rows), self.padding_idx)
