"""The quantized form of `nn.Embedding`."""

from __future__ import annotations

from torch import Tensor, nn

from tbt_compile.quantizers import WeightQuantizer, quantized_embedding


class QuantizedEmbedding(nn.Embedding):
    """`nn.Embedding` whose rows are quantized: int64 `[...]` -> `[..., D]`.

    Child: `weight_quantizer`. `weight` [N, D] stays a trainable parameter in full precision.
    """

    weight_quantizer: WeightQuantizer

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the quantized weight, as real values."""
        return quantized_embedding(input, self.weight_quantizer(self.weight), self.padding_idx)
