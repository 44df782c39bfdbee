"""Compiling and running single kernels in tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tbt_compile.codegen.layouts import pack_planes
from tbt_compile.codegen.library.compile import llvm_module, round_products
from tbt_compile.codegen.library.library import Library, compile_functions
from tbt_compile.codegen.target.host import host_target, missing_features
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tvm_api import PrimFunc, Target, tvm
from tbt_compile.encoding import Encoding

SEEDS = st.integers(0, 2**32 - 1)
TIES = np.float32([0.0, -0.0, 0.25, -0.25, 0.5, -0.5, 0.75, -0.75, 1.5])
"""Values at and next to the thresholds of a scale of 0.5."""


def runnable(*names: str) -> list[str]:
    """Those of the CPUs whose code this machine can run, the machine itself first.

    One for which kernels are scheduled like those of a CPU before it is left out.
    """
    host = host_target()
    specs = [host, *(parse_target(name) for name in names)]
    able = [spec for spec in specs if spec.arch == host.arch and not missing_features(spec)]
    first: dict[Isa, str] = {}
    for spec in able:
        first.setdefault(spec.isa.schedule, spec.mcpu)
    return list(first.values())


def isa_of(cpu: str) -> Isa:
    """Schedule parameters of a CPU."""
    return parse_target(cpu).isa


def build(function: PrimFunc, cpu: str) -> Library:
    """One kernel compiled for a CPU."""
    return compile_functions({"kernel": function}, parse_target(cpu))


def source(function: PrimFunc, cpu: str, kind: str = "asm") -> str:
    """One kernel compiled for a CPU, as text: assembly, or "ll" for LLVM's language."""
    target = Target(parse_target(cpu).code_options)
    return str(llvm_module({"kernel": round_products(function)}, target).inspect_source(kind))


@cache
def kernel(builder: Callable[[Any], PrimFunc], spec: Any, cpu: str) -> Callable[..., Any]:
    """`builder(spec)` compiled for a CPU; each one only once."""
    return build(builder(spec), cpu)["kernel"]


def call(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    shape: Sequence[int],
    dtype: Any,
    past: np.ndarray | None = None,
) -> np.ndarray:
    """Runs a kernel on arrays and integers; returns its output.

    That starts out as rubbish, except where it is a cache that begins with `past` `[B, H, rows, ...]`.
    """
    start = np.full(shape, 99).astype(dtype)
    if past is not None:
        start[:, :, : past.shape[2]] = past
    output = tvm.runtime.tensor(start)
    arguments = [
        value if isinstance(value, int) else tvm.runtime.tensor(np.ascontiguousarray(value))
        for value in inputs
    ]
    function(*arguments, output)
    return output.numpy()


def floats(seed: int, *shape: int) -> np.ndarray:
    """Random float32 values, about half of them exact ties or zeros."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.5, rng.choice(TIES, shape), values)


def powers(seed: int, *shape: int) -> np.ndarray:
    """Random powers of two: scaling by them is exact."""
    return (2.0 ** np.random.default_rng(seed).integers(-4, 4, shape)).astype(np.float32)


def codes(seed: int, encoding: Any, *shape: int) -> np.ndarray:
    """Random codes of an encoding, int64."""
    return np.random.default_rng(seed).choice(encoding.levels, shape)


def scalar(value: float) -> np.ndarray:
    """A learned scale as kernels take it: float32 [1]."""
    return np.float32([value])


def value_planes(values: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Codes [B, H, T, D] packed along T: [B, H, TW, P, D]."""
    planes = pack_planes(np.swapaxes(values, -1, -2), encoding)
    return np.moveaxis(planes, (-3, -2, -1), (-1, -2, -3))


def byte_rows(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Codes [..., D] and scales [..., 1] as int8 [..., D + 4]."""
    tail = np.ascontiguousarray(scale.astype("<f4")).view(np.int8)
    return np.concatenate([values.astype(np.uint8).view(np.int8), tail], -1)
