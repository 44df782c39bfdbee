"""The quantized form of `nn.Embedding`."""

from __future__ import annotations

from torch import Tensor, nn

from tbt_compile.quantizers import WeightQuantizer, quantized_embedding


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
