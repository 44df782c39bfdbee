"""Products are rounded: the machine code contracts only what names FMA."""

from __future__ import annotations

import re

import pytest
from kernel_tools import source

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.library.compile import round_products
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T

CPUS = ("haswell", "znver4", "cortex-a72", "neoverse-v1")
FMA = re.compile(r"^\s*(vfn?m(add|sub)\w*|fn?m(add|sub|la|ls)\w*)\s", re.M)
SIZE = 64


def kernel(dtype: str, lanes: int, named: bool) -> PrimFunc:
    """z = x * y + z and z = x * y - z, element by element."""

    def body() -> None:
        x, y, z = (emit.argument(name, (2, SIZE), dtype) for name in "xyz")
        with emit.loop("k", SIZE // lanes) as k:

            def load(row: int) -> tuple[Expr, Expr, Expr]:
                a, b, c = (emit.let(emit.load(each, row, k * lanes, lanes=lanes)) for each in (x, y, z))
                return a, b, c

            a, b, c = load(0)
            emit.store(z, emit.fma(a, b, c) if named else a * b + c, 0, k * lanes, lanes=lanes)
            a, b, c = load(1)
            emit.store(z, emit.fma(a, b, -c) if named else a * b - c, 1, k * lanes, lanes=lanes)

    return emit.function("contracted", body)


def fused(function: PrimFunc, cpu: str) -> int:
    """The number of FMA instructions."""
    return len(FMA.findall(source(function, cpu)))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("dtype", "lanes"), (("float32", 1), ("float32", 8), ("float64", 4)))
def test_only_a_named_fma_is_one_instruction(cpu: str, dtype: str, lanes: int) -> None:
    assert fused(kernel(dtype, lanes, named=False), cpu) == 0
    assert fused(kernel(dtype, lanes, named=True), cpu) > 0


def test_only_products_of_floats_in_functions_that_add_floats_are_fenced() -> None:
    def body() -> None:
        x, y = (emit.argument(name, (SIZE,), "float32") for name in "xy")
        with emit.loop("k", SIZE // 4) as k:
            emit.store(y, x[k * 4 + 1] * T.float32(3), k)

    without_sums = emit.function("scale", body)
    assert "fence" not in str(round_products(without_sums))
    assert str(round_products(kernel("float32", 1, named=False))).count("llvm.arithmetic.fence") == 2
    assert "fence" not in str(round_products(kernel("int32", 1, named=False)))
