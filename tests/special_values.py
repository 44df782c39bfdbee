"""Numbers that operators get wrong, and functions of them that must be exact: bounds, comparisons, order."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Functions = dict[str, Callable[[Any], Any]]

FLOATS = torch.tensor(
    [
        *(nan, inf, -inf, 0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.5, -2.5, 3.0, -3.0, 6.0, 7.0, -7.0),
        *(1e-40, -1e-40, 8388609.0, -8388609.5, 33554434.0, 1e30, -1e30, 0.3, -0.3, 88.5, -88.5, 100.0),
        *(-100.0, 20.0),
    ]
)
INTEGERS = torch.tensor(
    [
        *(0, 1, -1, 2, -2, 3, -3, 5, -5, 6, -6, 7, -7, 8, -8, 31, 32, 33, 62, 63, 64, 100, -100),
        *(2**31 - 1, -(2**31), 2**31, 2**40, -(2**40), 2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1),
    ]
)
EDGES, INTEGER_EDGES = torch.tensor([-7.0, -0.5, 0.0, 0.5, 2.5, 7.0]), torch.tensor([-7, 0, 2, 2**40])


def special_inputs() -> dict[str, Tensor]:
    """Square tensors: x and y hold all pairs of floats, i and j those of integers, z has rows to reduce."""
    torch.manual_seed(0)
    size = len(FLOATS)
    x, i = (numbers[:, None].repeat(1, size) for numbers in (FLOATS, INTEGERS))
    y = x.T.contiguous()
    y[:, FLOATS.abs() == FLOATS[18]] = 2.0  # remainders by denormals are NaN in PyTorch
    z, m = torch.randn(size, size), torch.randint(-9, 9, (size, size), dtype=torch.int32)
    for row, number in enumerate((nan, inf, -inf, 0.0, 2.0**20)):
        z[row] = number
    z[5, 0] = z[6, -1] = z[7, 7] = z[7, 20] = z[8, 1] = z[9, 0] = z[17, 3] = nan
    z[17, 3] = -z[17, 3]  # a NaN with a sign
    z[8, 0] = z[9, 1] = z[10, 3] = z[12, 4] = inf
    z[11, 3] = z[12, 5] = -inf
    z[13], z[14], z[15] = FLOATS, FLOATS.flip(0), z[15].round()
    z[16, ::2], z[16, 1::2], z[18, 1:] = 0.0, -0.0, -inf
    m[0, 0], m[0, 1], m[1] = 2**31 - 1, -(2**31), 0
    return {"x": x, "y": y, "z": z, "i": i, "j": i.T.contiguous(), "m": m, "b": z > 0}


def named(tensors: tuple[Tensor, ...]) -> SimpleNamespace:
    """The tensors that functions get, by the names of `special_inputs`."""
    return SimpleNamespace(**dict(zip("xyzijmb", tensors, strict=True)))


BOUNDS: Functions = {
    "relu": lambda v: F.relu(v.x),
    "relu6": lambda v: F.relu6(v.x),
    "relu_in_place": lambda v: F.relu(v.x * 1, inplace=True),
    "hardtanh": lambda v: F.hardtanh(v.x),
    "hardtanh_bounds": lambda v: F.hardtanh(v.x, -2, 3),
    "clamp": lambda v: v.x.clamp(-1, 1),
    "clamp_min": lambda v: v.x.clamp(min=0.5),
    "clamp_max": lambda v: v.x.clamp(max=0.5),
    "torch_clamp_min": lambda v: torch.clamp_min(v.x, 0.5),
    "torch_clamp_max": lambda v: torch.clamp_max(v.x, 0.5),
    "clamp_min_tensor": lambda v: torch.clamp_min(v.x, v.y),
    "clamp_max_tensor": lambda v: torch.clamp_max(v.x, v.y),
    "clamp_tensor": lambda v: torch.clamp(v.x, v.y, v.z),
    "clamp_inf": lambda v: v.x.clamp(-inf, inf),
    "clamp_nan": lambda v: v.x.clamp(nan, 1),
    "clamp_cross": lambda v: v.x.clamp(2, -2),
    "clamp_int": lambda v: v.i.clamp(-3, 2**40),
    "clamp_int_by_float": lambda v: v.i.clamp(-2.5, 2.5),
    "maximum": lambda v: torch.maximum(v.x, v.y),
    "minimum": lambda v: torch.minimum(v.x, v.y),
    "maxother": lambda v: torch.max(v.x, v.y),
    "minother": lambda v: torch.min(v.x, v.y),
    "fmax": lambda v: torch.fmax(v.x, v.y),
    "fmin": lambda v: torch.fmin(v.x, v.y),
    "imaximum": lambda v: torch.maximum(v.i, v.j),
    "leaky": lambda v: F.leaky_relu(v.x, 0.1),
    "leakyn": lambda v: F.leaky_relu(v.x, -0.1),
    "hardshrink": lambda v: F.hardshrink(v.x),
    "softshrink": lambda v: F.softshrink(v.x),
    "threshold": lambda v: F.threshold(v.x, 0.5, 20.0),
    "prelu": lambda v: F.prelu(v.x, torch.full((1,), 0.25)),
    "dmaximum": lambda v: torch.maximum(v.x.double(), v.y.double()),
    "drelu": lambda v: v.x.double().relu(),
    "dclamp": lambda v: v.x.double().clamp(-1, 1),
}

COMPARISONS: Functions = {
    "ne": lambda v: v.x != v.y,
    "eq": lambda v: v.x == v.y,
    "lt": lambda v: v.x < v.y,
    "le": lambda v: v.x <= v.y,
    "gt": lambda v: v.x > v.y,
    "ge": lambda v: v.x >= v.y,
    "nes": lambda v: v.x != 3.0,
    "nenan": lambda v: v.x != v.x,
    "eqnan": lambda v: v.x == v.x,
    "notlt": lambda v: ~(v.x < v.y),
    "noteq": lambda v: ~(v.x == v.y),
    "notne": lambda v: ~(v.x != v.y),
    "lnotlt": lambda v: torch.logical_not(v.x < v.y),
    "whlt": lambda v: torch.where(v.x < v.y, v.x, v.y),
    "wh0": lambda v: torch.where(v.x < 0, 0.0, v.x),
    "whne": lambda v: torch.where(v.x != v.x, 1.0, v.x),
    "lnot": lambda v: torch.logical_not(v.x),
    "land": lambda v: torch.logical_and(v.x, v.y),
    "lxor": lambda v: torch.logical_xor(v.x, v.y),
    "tobool": lambda v: v.x.bool(),
    "isnan": lambda v: v.x.isnan(),
    "isinf": lambda v: v.x.isinf(),
    "isfinite": lambda v: torch.isfinite(v.x),
    "isposinf": lambda v: torch.isposinf(v.x),
    "isneginf": lambda v: torch.isneginf(v.x),
    "nan2num": lambda v: torch.nan_to_num(v.x),
    "nan2num3": lambda v: torch.nan_to_num(v.x, 1.0, 2.0, -2.0),
    "isclose": lambda v: torch.isclose(v.x, v.y),
    "isclosen": lambda v: torch.isclose(v.x, v.y, equal_nan=True),
    "sign": lambda v: v.x.sign(),
    "sgn": lambda v: torch.sgn(v.x),
    "heaviside": lambda v: torch.heaviside(v.x, v.y),
    "nnotnan": lambda v: ~torch.isnan(v.x),
    "lnotnan": lambda v: torch.logical_not(torch.isnan(v.x)),
    "both": lambda v: (v.x < v.y) & (v.x <= v.y),
    "masked_fill": lambda v: v.x.masked_fill(v.x > 0, nan),
    "dne": lambda v: v.x.double() != v.y.double(),
    "disnan": lambda v: v.x.double().isnan(),
    "ine": lambda v: v.i != v.j,
    "isin": lambda v: torch.isin(v.x, EDGES),
    "any": lambda v: v.z.any(1),
    "all": lambda v: v.z.all(1),
    "count_nonzero": lambda v: torch.count_nonzero(v.z, dim=1),
}

ORDER: Functions = {
    "amax": lambda v: v.z.amax(1),
    "amin": lambda v: v.z.amin(1),
    "amax0": lambda v: v.z.amax(0),
    "amaxall": lambda v: v.z.amax(),
    "max_all": lambda v: v.z.max(),
    "min_all": lambda v: v.z.min(),
    "maxdim": lambda v: v.z.max(1),
    "mindim": lambda v: v.z.min(1),
    "maxdim0": lambda v: v.z.max(0),
    "maxkeep": lambda v: v.z.max(1, keepdim=True),
    "aminmax": lambda v: torch.aminmax(v.z, dim=1),
    "imaxdim": lambda v: v.m.max(1),
    "imindim": lambda v: v.m.min(1),
    "argmax": lambda v: v.z.argmax(1),
    "argmin": lambda v: v.z.argmin(1),
    "argmax0": lambda v: v.z.argmax(0),
    "argmaxall": lambda v: v.z.argmax(),
    "argmaxkeep": lambda v: v.z.argmax(1, keepdim=True),
    "iargmax": lambda v: v.m.argmax(1),
    "bamax": lambda v: v.b.amax(1),
    "bmax": lambda v: v.b.max(1)[0],
    "damax": lambda v: v.z.double().amax(1),
    "dargmax": lambda v: v.z.double().argmax(1),
    "iamax": lambda v: v.i.amax(0),
    "sorts": lambda v: torch.sort(v.z, dim=1, stable=True),
    "sortsd": lambda v: torch.sort(v.z, dim=1, stable=True, descending=True),
    "msorts": lambda v: torch.sort(v.m, dim=1, stable=True),
    "msortsd": lambda v: torch.sort(v.m, dim=1, stable=True, descending=True),
    "argsorts": lambda v: torch.argsort(v.z, dim=1, stable=True),
    "argsortsd": lambda v: torch.argsort(v.z, dim=1, stable=True, descending=True),
    "sortd": lambda v: v.z.sort(1, descending=True)[0],
    "msort": lambda v: torch.msort(v.z),
    "topk": lambda v: v.z.topk(5, dim=1)[0],
    "topks": lambda v: v.z.topk(5, dim=1, largest=False)[0],
    "topk0": lambda v: v.z.topk(5, dim=0)[0],
    "median": lambda v: v.z.median(1)[0],
    "medianall": lambda v: v.z.median(),
    "bucketize": lambda v: torch.bucketize(v.x, EDGES),
    "bucketizer": lambda v: torch.bucketize(v.x, EDGES, right=True),
    "ibucketize": lambda v: torch.bucketize(v.i, INTEGER_EDGES),
    "maxpool1": lambda v: F.max_pool1d(v.z[None], 3, 2, 1),
    "maxpool2": lambda v: F.max_pool2d(v.z[None, None], 3, 2, 1),
    "maxpool2c": lambda v: F.max_pool2d(v.z[None, None], 3, 2, 1, ceil_mode=True),
    "maxpool2d": lambda v: F.max_pool2d(v.z[None, None], 3, 2, 1, dilation=2),
    "amaxpool2": lambda v: F.adaptive_max_pool2d(v.z[None, None], 4),
    "adapt1": lambda v: F.adaptive_max_pool1d(v.z[None], 4),
    "scatter_amax": lambda v: v.x.scatter_reduce(1, v.i % 32, v.y, "amax"),
    "scatter_amin": lambda v: v.x.scatter_reduce(1, v.i % 32, v.y, "amin"),
    "unfold": lambda v: v.z.unfold(1, 3, 2).amax(-1),
}
