"""Quantized `nn.Linear` and `nn.Embedding`."""

from __future__ import annotations

from torch import Tensor, nn

from tbt_compile.modules.frozen import FrozenWeight
from tbt_compile.modules.packed_view import stored_weight
from tbt_compile.modules.whole_operators import whole_linear
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer, quantized_embedding, quantized_linear
from tbt_compile.quantizers.dead_zone import dead_zone_bias


class QuantizedLinear(nn.Linear):
    """`nn.Linear` on quantized operands: `[..., K] -> [..., N]`.

    Children: `input_quantizer` and `weight_quantizer`. The latent `weight` [N, K] and `bias` [N] remain
    trainable parameters in full precision.
    """

    input_quantizer: ActivationQuantizer
    weight_quantizer: WeightQuantizer

    @property
    def weight_rows(self) -> Tensor | None:
        """The weight as [N, K]; None once freezing has replaced it by packed codes."""
        return stored_weight(self)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply the quantized input by the quantized weight and add the bias."""
        whole = whole_linear(input, self.input_quantizer, self.weight_quantizer, self.bias)
        if whole is not None:
            return whole
        rows = self.weight_rows
        x, weight = self.input_quantizer(input), self.weight_quantizer(rows)
        bias = dead_zone_bias(self.bias, rows, weight, self.weight_quantizer.dead_zone)
        return quantized_linear(x, weight, bias)


class QuantizedEmbedding(nn.Embedding):
    """`nn.Embedding` with a quantized weight: int64 `[...]` -> `[..., D]`.

    Child: `weight_quantizer`. The latent `weight` [N, D] remains a trainable parameter in full precision.
    """

    weight_quantizer: WeightQuantizer

    @property
    def weight_rows(self) -> Tensor | None:
        """The weight as [N, D]; None once freezing has replaced it by packed codes."""
        return stored_weight(self)

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows of the quantized weight, as real values."""
        if isinstance(self.weight_quantizer, FrozenWeight):
            return self.weight_quantizer.rows(input)
        return quantized_embedding(input, self.weight_quantizer(self.weight_rows), self.padding_idx)
