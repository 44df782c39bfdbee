"""Reference results of the kernels, in plain numpy.

They follow the numeric definitions literally and share no code with the generated kernels: codes from
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
    """x minus the mean of its last dimension; the mean is computed in float64 and rounded to float32."""
    mean = (x.astype(np.float64).sum(-1, keepdims=True) / x.shape[-1]).astype(_F32)
    return (x - mean).astype(_F32)


def hadamard(x: Floats, block: int) -> Floats:
    """Each block of x times a Hadamard matrix over the root of its size, one element after the other.

    Args:
        x: float32 [..., K].
        block: a power of two that divides K.

    Returns:
        float32 [..., K].
    """
    y = x.astype(_F32)
    half = 1
    while half < block:
        for i in range(y.shape[-1]):
            if not i & half:
                a, b = y[..., i].copy(), y[..., i + half].copy()
                y[..., i], y[..., i + half] = a + b, a - b
        half *= 2
    return (y * _F32(block**-0.5)).astype(_F32)


def quantize(x: Floats, encoding: Encoding, scale: float, center: bool = False) -> tuple[Integers, Floats]:
    """Quantize activations.

    Args:
        x: float32 [..., D].
        encoding: any quantized encoding.
        scale: the learned scale; unused by 8-bit encodings.
        center: whether to subtract the row mean; ignored unless BINARY or TERNARY.

    Returns:
        Codes, int64 [..., D], and scales, float32: [..., 1] for 8-bit encodings, else [].
    """
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
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.rint(x * inverse), nan=0.0)
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
    """A linear layer on codes.

    Args:
        codes: int64 [M, K].
        scale: float32 [] or [M, 1].
        weight_codes: int64 [N, K].
        weight_scale: float32 [N].
        bias: float32 [N] or None.

    Returns:
        float32 [M, N].
    """
    total = codes.astype(np.int64) @ weight_codes.astype(np.int64).T
    y = (total.astype(_F32) * (scale * weight_scale[None, :]).astype(_F32)).astype(_F32)
    return y if bias is None else (y + bias).astype(_F32)


def attention_scores(q: Integers, q_scale: Floats, k: Integers, k_scale: Floats) -> Floats:
    """Scores, Q.K^T.

    Args:
        q: codes, int64 [..., Q, D].
        q_scale: float32 [] or, per token, [..., Q, 1].
        k: codes, int64 [..., T, D].
        k_scale: float32 [] or [..., T, 1].

    Returns:
        float32 [..., Q, T].
    """
    total = q.astype(np.int64) @ np.swapaxes(k, -1, -2).astype(np.int64)
    columns = k_scale if k_scale.ndim == 0 else np.swapaxes(k_scale, -1, -2)
    return (total.astype(_F32) * (q_scale * columns).astype(_F32)).astype(_F32)


def attention_context(p: Integers, p_scale: Floats, v: Integers, v_scale: Floats) -> Floats:
    """Weighted sums of values, P.V.

    Args:
        p: codes, int64 [..., Q, T].
        p_scale: float32 [] or [..., Q, 1].
        v: codes, int64 [..., T, D].
        v_scale: float32 [] or, per token, [..., T, 1]: then applied to p before the sum over T, which is
            accumulated in float32, t ascending.

    Returns:
        float32 [..., Q, D].
    """
    if v_scale.ndim == 0:
        total = p.astype(np.int64) @ v.astype(np.int64)
        return (total.astype(_F32) * (p_scale * v_scale).astype(_F32)).astype(_F32)
    values = v.astype(_F32)
    weights = (p.astype(_F32) * np.swapaxes(v_scale, -1, -2)).astype(_F32)
    total = np.zeros((*p.shape[:-1], v.shape[-1]), _F32)
    for t in range(v.shape[-2]):
        total = (total + weights[..., t : t + 1] * values[..., t : t + 1, :]).astype(_F32)
    return (p_scale * total).astype(_F32)
