"""The most compact form of a weight that loses nothing: codes with scales, else 16 bits, else float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tbt_compile.dtypes import HALVES, dtype_name
from tbt_compile.encoding import Encoding
from tbt_compile.modules.frozen import ROWS, FrozenWeight
from tbt_compile.ops.quantize import pack

_GROUPS = (256, 128, 64, 32, 16)
"""Group sizes that are tried where a row has more than one scale, in columns."""
_SAMPLE = 16
"""Rows that rule out a group size before the whole weight is read."""


def stored_weight(weight: Tensor) -> FrozenWeight | None:
    """Return the compact form of a weight `[N, K]` of real values, or None if it takes float32."""
    found = find_codes(weight)
    if found is not None:
        return found
    kept = (dtype for dtype in HALVES if torch.equal(weight.to(dtype).to(weight.dtype), weight))
    half = weight.dtype if weight.dtype in HALVES else next(kept, None)
    if half is None:
        return None
    encoding = Encoding(dtype_name(half))
    ones = torch.ones(len(weight), 1)
    return FrozenWeight(pack(weight, encoding), ones, encoding, weight.shape[1])


def find_codes(weight: Tensor) -> FrozenWeight | None:
    """Return the codes and scales of a weight that is binary or ternary: c * s with c in {-1, 0, 1}.

    A scale belongs to a row, or to a group of 256, 128, 64, 32 or 16 columns of it. Nothing is rounded: a
    weight with a value that is neither 0 nor the scale nor its negative is not ternary.

    Args:
        weight: real values, float `[N, K]`.

    Returns:
        The weight with the fewest groups, or None if it is neither binary nor ternary.
    """
    columns = weight.shape[1]
    sizes = [columns, *(size for size in _GROUPS if size < columns and columns % size == 0)]
    if columns < _GROUPS[-1]:  # of so few numbers, that they have one magnitude says nothing
        return None
    for size in sizes:
        if _are_codes(weight[:_SAMPLE], size) and all(_are_codes(part, size) for _, part in _parts(weight)):
            return _packed(weight, size)
    return None


def from_codes(codes: Tensor, scale: Tensor) -> FrozenWeight:
    """Pack ternary codes.

    Args:
        codes: integers in {-1, 0, 1}, of any dtype, `[N, K]`.
        scale: of the whole weight, one element; or `[N, 1]`.

    Returns:
        The frozen weight.
    """
    frozen = FrozenWeight.empty(Encoding.TERNARY, *codes.shape)
    for rows, part in _parts(codes):
        frozen.packed[rows] = pack(part, Encoding.TERNARY)
    frozen.scale.copy_(scale.float().reshape(-1, 1))
    return frozen


def _parts(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, weight[rows]


def _grouped(weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Magnitudes `[N, G, size]`, and the largest of each group, `[N, G, 1]`."""
    magnitude = weight.abs().unflatten(1, (-1, size))
    return magnitude, magnitude.amax(-1, keepdim=True)


def _are_codes(weight: Tensor, size: int) -> bool:
    magnitude, peak = _grouped(weight, size)
    return bool(((magnitude == 0) | (magnitude == peak)).all() and torch.isfinite(peak).all())


def _packed(weight: Tensor, size: int) -> FrozenWeight:
    binary = all(bool((part != 0).all()) for _, part in _parts(weight))
    encoding = Encoding.BINARY if binary else Encoding.TERNARY
    frozen = FrozenWeight.empty(encoding, len(weight), weight.shape[1], weight.shape[1] // size)
    for rows, part in _parts(weight):
        frozen.packed[rows] = pack(part.sign(), encoding)
        frozen.scale[rows] = _grouped(part, size)[1].squeeze(-1).float()
    return frozen
