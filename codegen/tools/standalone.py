"""Single kernels outside any model: compiled, given data and called, for benchmarks, tuning and tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.kernels.linear.embedding import EmbeddingSpec
from tbt_compile.codegen.kernels.linear.linear import linear
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import arrange, pack_planes
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tools.roofline import READ_WORDS, RoofSpec, compute_roof, read_roof
from tbt_compile.codegen.tvm_api import PrimFunc, Target, compile_functions, tvm
from tbt_compile.encoding import Encoding

Call = Callable[[], None]
_WEIGHT = 2  # its position among the arguments of a linear layer


def compile_kernel(function: PrimFunc, target: TargetSpec) -> Callable[..., None]:
    """One kernel as a function of TVM tensors."""
    called: Callable[..., None] = compile_functions({"kernel": function}, Target(target.as_dict()))["kernel"]
    return called


def stored_weight(
    codes: npt.NDArray[np.integer], spec: LinearSpec | EmbeddingSpec
) -> npt.NDArray[np.generic]:
    """Weight codes [N, K] in the layout that the kernel of `spec` reads."""
    if spec.weight is Encoding.INT8:
        return codes.astype(np.int8)
    planes = pack_planes(codes, spec.weight)
    return arrange(planes, spec.layout, spec.isa)


def compile_library(functions: dict[str, PrimFunc], target: TargetSpec) -> Any:
    """A library in memory with kernels by name; see `link.export_library`."""
    return compile_functions(functions, Target(target.as_dict()))


def random_linear(spec: LinearSpec, target: TargetSpec, rows: int, seed: int = 0) -> tuple[Call, int]:
    """A linear layer on random data.

    Args:
        spec: the layer.
        target: what to compile for; this machine has to be able to run it.
        rows: M.
        seed: of the data.

    Returns:
        What to call, and the bytes of its packed weights.
    """
    function, arrays = linear_arrays(spec, rows, seed)
    return _bound(function, target, arrays), arrays[_WEIGHT].nbytes


def linear_arrays(
    spec: LinearSpec, rows: int, seed: int = 0
) -> tuple[PrimFunc, list[npt.NDArray[np.generic]]]:
    """A linear layer and random data for it.

    Args:
        spec: the layer.
        rows: M.
        seed: of the data.

    Returns:
        The kernel, and its arguments with the output last.
    """
    rng = np.random.default_rng(seed)
    weight = rng.choice(np.asarray(spec.weight.levels, np.int8), (spec.n, spec.k))
    x = rng.standard_normal((rows, spec.k), dtype=np.float32)
    if not spec.activation.signed:
        x = np.abs(x)
    stored = stored_weight(weight, spec)
    scale = rng.random(spec.n, dtype=np.float32)
    inputs = [x, np.ones(1, np.float32), stored, scale, *([scale] if spec.has_bias else [])]
    output = np.zeros((rows, spec.n), np.float32)
    return linear(spec), [*inputs, output]


def arithmetic(spec: RoofSpec, target: TargetSpec) -> Call:
    """A call of `compute_roof`."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 2**63, (64, 64), np.uint64), rng.integers(0, 2**63, 64, np.uint64)
    return _bound(compute_roof(spec), target, [x, w, np.zeros(16, np.int32)])


def reading(size: int, target: TargetSpec) -> Call:
    """A call of `read_roof` on about `size` bytes."""
    words = -(-size // (8 * READ_WORDS)) * READ_WORDS
    data = np.arange(words, dtype=np.uint64)
    return _bound(read_roof(words, target.isa), target, [data, np.zeros(words // READ_WORDS, np.uint64)])


def _bound(function: PrimFunc, target: TargetSpec, arrays: list[npt.NDArray[np.generic]]) -> Call:
    run = compile_kernel(function, target)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return lambda: run(*tensors)
