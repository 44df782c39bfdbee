"""Compile TIR functions with LLVM, so that no float depends on the CPU or on the version of LLVM.

TVM lets LLVM contract a multiplication and an addition to one FMA wherever the CPU has FMA. An arithmetic
fence around each product of floats prevents it, and costs no instruction. Kernels that want FMA call
`emit.fma`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tbt_compile.codegen.tvm_api import (
    Expr,
    IRModule,
    PassContext,
    PrimFunc,
    Target,
    structural_map,
    structural_walk,
    tirx,
    tvm,
)

# Passes that dominate the build time and do not improve the machine code:
DISABLED_PASSES = [
    # It shrinks scratch buffers to the part in use. That can make a static size symbolic, which keeps the
    # buffer off the stack.
    "s_tir.CompactBufferAllocation",
    # LLVM does this faster; with a long epilogue this pass took half of the build time.
    "tirx.CommonSubexprElim",
    # LLVM hoists conditions and simplifies too, and tirx.StmtSimplify runs later. The machine code stays the
    # same but for a few instructions in ten thousand, in half of the time.
    "s_tir.HoistIfThenElse",
    "s_tir.InsertHoistIfThenElse",
    "s_tir.RenormalizeSplitPattern",
    "s_tir.StmtSimplify",
    # GPU only.
    "s_tir.InjectVirtualThread",
    "s_tir.InjectPermutedLayout",
    "s_tir.InjectSoftwarePipeline",
    "s_tir.TransformMmaBufferLayout",
]


def llvm_module(functions: Mapping[str, PrimFunc], target: Target) -> Any:
    """Compile functions to a module of TVM that exports them by name; `inspect_source("asm")` shows the code.

    Args:
        functions: by name; their products are to be rounded already, see `round_products`.
        target: what to compile for.

    Returns:
        The module.
    """
    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    with PassContext(disabled_pass=DISABLED_PASSES):
        return tvm.compile(IRModule(named), target=target).mod


def round_products(function: PrimFunc) -> PrimFunc:
    """Fence every product of floats, unless the function adds no floats: LLVM does not vectorize fences."""
    sums: list[Expr] = []
    structural_walk(function, ((tirx.Add, tirx.Sub), sums.append))
    return structural_map(function, (tirx.Mul, _fenced)) if any(map(_is_float, sums)) else function


def _fenced(product: Expr) -> Expr:
    if not _is_float(product):
        return product
    return tirx.call_llvm_pure_intrin(product.ty.dtype, "llvm.arithmetic.fence", product)


def _is_float(value: Expr) -> bool:
    return str(value.ty.dtype).startswith("float")
