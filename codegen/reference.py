"""The kernels' results, computed plainly in numpy.

These follow the numeric definitions word for word and share nothing with the generated code: codes from
comparisons, exact int64 sums, then float32 scale and bias.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.encoding import LEAST_PEAK, Encoding

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_F32 = np.float32


def centre(x: Floats) -> Floats:
    """x minus the mean of its last dimension; the mean is found in float64 and rounded to float32."""
    mean = (x.astype(np.float64).sum(-1, keepdims=True) / x.shape[-1]).astype(_F32)
    return (x - mean).astype(_F32)


def quantize(x: Floats, encoding: Encoding, scale: float, center: bool = False) -> tuple[Integers, Floats]:
    """Codes [..., D] and scales: [..., 1] for 8-bit encodings, else the learned one as a 0-d array."""
    a = _F32(scale)
    x = x.astype(_F32)
    if center and encoding in (Encoding.BINARY, Encoding.TERNARY):
        x = centre(x)
    half, three_halves = _F32(0.5) * a, _F32(1.5) * a
    if encoding is Encoding.BINARY:
        return np.where(x >= 0, 1, -1).astype(np.int64), np.asarray(a)
    if encoding is Encoding.TERNARY:
        return (x > half).astype(np.int64) - (x < -half), np.asarray(a)
    if encoding is Encoding.BINARY01:
        return (x > half).astype(np.int64), np.asarray(a)
    if encoding is Encoding.TERNARY012:
        return np.where(x >= three_halves, 2, (x > half).astype(np.int64)), np.asarray(a)
    return _quantize_bytes(x, encoding)


def _quantize_bytes(x: Floats, encoding: Encoding) -> tuple[Integers, Floats]:
    levels = _F32(127 if encoding is Encoding.INT8 else 255)
    values = np.abs(x) if encoding is Encoding.INT8 else np.maximum(x, 0)
    largest = values.max(-1, keepdims=True, initial=0).astype(_F32)
    counts = largest > LEAST_PEAK
    inverse = np.where(counts, levels / np.where(counts, largest, 1), 0).astype(_F32)
    codes = np.rint(x * inverse)
    if encoding is Encoding.UINT8:
        codes = np.maximum(codes, 0)
    return codes.astype(np.int64), (largest / levels).astype(_F32)


def linear(
    codes: Integers,
    scale: Floats,
    weight_codes: Integers,
    weight_scale: Floats,
    bias: Floats | None = None,
) -> Floats:
    """Codes [M, K] with scale () or [M, 1], weight codes [N, K] with scale [N] -> float32 [M, N]."""
    total = codes.astype(np.int64) @ weight_codes.astype(np.int64).T
    y = (total.astype(_F32) * (scale * weight_scale[None, :]).astype(_F32)).astype(_F32)
    return y if bias is None else (y + bias).astype(_F32)


def attention_scores(q: Integers, q_scale: Floats, k: Integers, k_scale: Floats) -> Floats:
    """Codes [..., Q, D] and [..., T, D] -> float32 [..., Q, T].

    Scales are 0-d, or [..., Q, 1] and [..., T, 1] when they were found per token.
    """
    total = q.astype(np.int64) @ np.swapaxes(k, -1, -2).astype(np.int64)
    columns = k_scale if k_scale.ndim == 0 else np.swapaxes(k_scale, -1, -2)
    return (total.astype(_F32) * (q_scale * columns).astype(_F32)).astype(_F32)


def attention_context(p: Integers, p_scale: Floats, v: Integers, v_scale: Floats) -> Floats:
    """Codes [..., Q, T] and [..., T, D] -> float32 [..., Q, D].

    A per-token v scale [..., T, 1] is applied before the sum over T, which is then taken in float32 in order.
    """
    if v_scale.ndim == 0:
        total = p.astype(np.int64) @ v.astype(np.int64)
        return (total.astype(_F32) * (p_scale * v_scale).astype(_F32)).astype(_F32)
    values = (v_scale * v.astype(_F32)).astype(_F32)
    weights = p.astype(_F32)
    total = np.zeros((*p.shape[:-1], v.shape[-1]), _F32)
    for t in range(v.shape[-2]):
        total = (total + weights[..., t : t + 1] * values[..., t : t + 1, :]).astype(_F32)
    return (p_scale * total).astype(_F32)
