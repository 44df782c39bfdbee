"""Compile and call single kernels on synthetic data, for benchmarks, tuning and tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.kernels.dot.stored_rows import StoredSpec
from tbt_compile.codegen.kernels.linear.linear import linear
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import arrange, pack_planes, words_for
from tbt_compile.codegen.library.library import compile_functions
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tools.roofline import READ_WORDS, RoofSpec, compute_roof, read_roof
from tbt_compile.codegen.tvm_api import PrimFunc, tvm
from tbt_compile.encoding import Encoding

Call = Callable[[], None]
_WEIGHT = 2  # position of the weight among the arguments of a linear layer


def compile_kernel(function: PrimFunc, target: TargetSpec) -> Callable[..., None]:
    """Compile one kernel to a callable on TVM tensors."""
    kernel: Callable[..., None] = compile_functions({"kernel": function}, target)["kernel"]
    return kernel


def stored_weight(codes: npt.NDArray[np.integer], spec: LinearSpec | StoredSpec) -> npt.NDArray[np.generic]:
    """Arrange weight codes [N, K] in the layout that the kernel of `spec` reads."""
    if spec.weight is Encoding.INT8:
        return codes.astype(np.int8)
    planes = pack_planes(codes, spec.weight)
    return arrange(planes, spec.layout, spec.isa)


def random_linear(spec: LinearSpec, target: TargetSpec, rows: int, seed: int = 0) -> tuple[Call, int]:
    """Compile a linear layer and bind it to random data.

    Args:
        spec: the layer.
        target: the CPU to compile for; the host must be able to run it.
        rows: M.
        seed: of the data.

    Returns:
        A callable that runs the layer, and the size of its packed weights in bytes.
    """
    function, arrays = linear_arrays(spec, rows, seed)
    return bound(compile_kernel(function, target), arrays), arrays[_WEIGHT].nbytes


def linear_arrays(
    spec: LinearSpec, rows: int, seed: int = 0
) -> tuple[PrimFunc, list[npt.NDArray[np.generic]]]:
    """Build a linear layer and random data for it.

    Args:
        spec: the layer.
        rows: M.
        seed: of the data.

    Returns:
        The kernel, and its arguments, output last.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, spec.k), dtype=np.float32)
    if not spec.activation.signed:
        x = np.abs(x)
    stored = _random_weight(rng, spec)
    scale = rng.random(spec.n, dtype=np.float32)
    inputs = [x, np.ones(1, np.float32), stored, scale, *([scale] if spec.has_bias else [])]
    output = np.zeros((rows, spec.n), np.float32)
    return linear(spec), [*inputs, output]


def _random_weight(rng: np.random.Generator, spec: LinearSpec) -> npt.NDArray[np.generic]:
    """A random stored weight, drawn as bit-planes: to draw and pack codes takes ten times as long."""
    if spec.weight is Encoding.INT8:
        return rng.integers(-127, 128, (spec.n, spec.k), np.int8)
    planes = rng.integers(0, 2**64, (spec.n, spec.weight.planes, words_for(spec.k)), np.uint64)
    if spec.k % WORD_BITS:
        planes[..., -1] &= np.uint64((1 << spec.k % WORD_BITS) - 1)
    if spec.weight is Encoding.TERNARY:
        planes[:, 1] &= planes[:, 0]
    return arrange(planes, spec.layout, spec.isa)


def arithmetic(spec: RoofSpec, target: TargetSpec) -> Call:
    """Compile `compute_roof` and bind it to random data."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 2**63, (64, 64), np.uint64), rng.integers(0, 2**63, 64, np.uint64)
    return bound(compile_kernel(compute_roof(spec), target), [x, w, np.zeros(16, np.int32)])


def reading(size: int, target: TargetSpec) -> Call:
    """Compile `read_roof` and bind it to about `size` bytes of data."""
    words = -(-size // (8 * READ_WORDS)) * READ_WORDS
    data = np.arange(words, dtype=np.uint64)
    return bound(
        compile_kernel(read_roof(words, target.isa), target), [data, np.zeros(words // READ_WORDS, np.uint64)]
    )


def bound(kernel: Callable[..., None], arrays: list[npt.NDArray[np.generic]]) -> Call:
    """A call of a compiled kernel on copies of some arrays."""
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return lambda: kernel(*tensors)
