"""The linear layers of transformers' BitNet checkpoints (Wang et al. 2023; Ma et al. 2024, b1.58).

    y = acc / (s * w_s)      bitlinear: the weight is code / w_s
    y = acc / s * w_s        autobitlinear, offline: the weight is code * w_s
    s = 127 / max(max|x|, 1e-5) per token, acc = sum of round(x * s) * code

`autobitlinear` in online mode keeps weights w in full precision, of which the codes are round(w / m) clamped
to {-1, 0, 1}, with m = max(mean|w|, 1e-5) over the whole weight; the weight is code * m. Packed weights are
uint8 [N / 4, K]: bits 2i and 2i + 1 of byte [r, c] hold code + 1 of row r + i * N / 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import BitNetQuantConfig

from tbt_compile.checkpoints.stored_weights import from_codes
from tbt_compile.dtypes import dtype_name
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight
from tbt_compile.storage.frozen_quantizers import rms_norm

FLOOR = 1e-5
"""The least that the largest magnitude of a token, or the mean magnitude of a weight, counts as."""
_PER_BYTE = 4


def unpack_bytes(packed: Tensor) -> Tensor:
    """Unpack uint8 `[N / 4, K]` to codes, int8 `[N, K]`."""
    return torch.cat([(packed >> 2 * place).bitwise_and_(3) for place in range(_PER_BYTE)]).char().sub_(1)


class BitNetLinears:
    """The linear layers that a BitNet quantization config converts.

    Attributes:
        names: of the converted layers.
    """

    def __init__(
        self, config: dict[str, Any], model: PreTrainedModel, tensor: Callable[[str], Tensor]
    ) -> None:
        """Find the layers.

        Args:
            config: the quantization config in a model's config.
            model: without weights.
            tensor: reads a tensor of the checkpoint by name.

        Raises:
            FormatError: a field of the config has an unknown value.
        """
        try:
            self.config = BitNetQuantConfig(**{k: v for k, v in config.items() if k != "quant_method"})
        except ValueError as error:
            raise FormatError(f"the quantization_config is not understood: {error}") from error
        kept = HfQuantizer.get_modules_to_not_convert(
            model, self.config.modules_to_not_convert, model._keep_in_fp32_modules
        )
        self.tensor = tensor
        self.names = {
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and should_convert_module(name, kept)
        }

    def read(self, name: str, shape: torch.Size) -> FrozenWeight:
        """Read the weight of a converted layer.

        Args:
            name: of the layer.
            shape: [N, K].

        Returns:
            Ternary codes, and the one scale of the weight for every row.

        Raises:
            FormatError: the weight has another shape or is not ternary.
        """
        stored = self.tensor(f"{name}.weight")
        is_packed = stored.dtype is torch.uint8
        expected = [shape[0] // _PER_BYTE, shape[1]] if is_packed else list(shape)
        if list(stored.shape) != expected or (is_packed and shape[0] % _PER_BYTE):
            dtype = dtype_name(stored.dtype)
            raise FormatError(f"{name}.weight is {dtype} {list(stored.shape)}: expected {expected}")
        if self.config.linear_class == "autobitlinear" and self.config.quantization_mode == "online":
            if is_packed:
                raise FormatError(f"{name}.weight is packed: the mode 'online' has weights in full precision")
            mean = stored.float().abs().mean().clamp_min(FLOOR)
            # As transformers has it: the reciprocal first, by which the weight is multiplied.
            inverse = 1.0 / mean
            codes = (stored.float() * inverse).round().clamp(-1, 1)
            return from_codes(codes, 1.0 / inverse)
        factor = self.tensor(f"{name}.weight_scale").float()
        scale = factor if self.config.linear_class == "autobitlinear" else 1.0 / factor
        codes = unpack_bytes(stored) if is_packed else stored
        if factor.numel() not in (1, shape[0]) or not bool(torch.isfinite(scale).all()):
            raise FormatError(f"{name}.weight_scale is {factor.tolist()}: expected one finite number, not 0")
        low, high = torch.aminmax(codes.to(torch.float32) if codes.is_floating_point() else codes)
        if low < -1 or high > 1 or (codes.is_floating_point() and not torch.equal(codes, codes.round())):
            raise FormatError(f"{name}.weight holds other numbers than -1, 0 and 1: expected ternary codes")
        return from_codes(codes, scale)

    def activation(self, name: str, columns: int) -> FrozenActivation:
        """The quantizer of a converted layer's input, after the layer's own norm if it has one.

        Args:
            name: of the layer.
            columns: K.

        Raises:
            FormatError: the weight of the norm is missing or has another size.
        """
        norm = None
        if self.config.use_rms_norm:
            weight = self.tensor(f"{name}.rms_norm.weight")
            if weight.shape != (columns,):
                raise FormatError(f"{name}.rms_norm.weight is {list(weight.shape)}: expected [{columns}]")
            norm = rms_norm(columns, self.config.rms_norm_eps)
            norm.weight = nn.Parameter(weight.float())
        return byte_activation(floor=FLOOR, norm=norm)


def byte_activation(
    encoding: Encoding = Encoding.INT8, floor: float = 0.0, norm: nn.Module | None = None
) -> FrozenActivation:
    """A quantizer to 8 bits per token.

    Args:
        encoding: INT8 or UINT8.
        floor: the least that the largest magnitude of a token counts as.
        norm: applied before.

    Returns:
        A frozen quantizer, which has no scale to train.
    """
    return FrozenActivation(encoding, False, torch.ones(()), floor, norm)
