"""Every name of TVM that this package uses, in one place.

TVM moves its Python API between minor versions (tir became tirx, NDArray became runtime.Tensor, the script
builder changed package). When it moves again, this is the only file to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import ir, relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.sym import Analyzer
from tvm.target import Target
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T
from tvm_ffi import structural_equal

from tbt_compile.codegen.library import threads

threads.set_defaults()

IRModule = ir.IRModule
PassContext = tvm.transform.PassContext

Expr = Any
"""A scalar or vector expression of the program being built."""
Buffer = Any
"""A tensor argument or a scratch buffer of the program being built."""

# Scratch buffers below this many bytes live on the stack, where LLVM turns them into registers; larger ones
# come from TVM's per-thread workspace pool.
STACK_BYTES = 1024

# Passes that take most of the time of building and leave the machine code as it was, or all but:
_DISABLED_PASSES = [
    # Kernels declare the scratch memory that they need. Where only a part of it is used, this would make its
    # size one that is known at run time, and so keep it off the stack.
    "s_tir.CompactBufferAllocation",
    # LLVM does this too, and faster: here it took half of all time where an epilogue is long.
    "tirx.CommonSubexprElim",
    # What only GPUs have.
    "s_tir.InjectVirtualThread",
    "s_tir.InjectPermutedLayout",
    "s_tir.InjectSoftwarePipeline",
    "s_tir.TransformMmaBufferLayout",
]


def call_packed(name: str, arguments: Sequence[Expr]) -> Expr:
    """A call of another function of the same library."""
    return tirx.call_cpacked(name, *arguments)


def byte_address(memory: Buffer, offset: Expr) -> Expr:
    """An address inside a buffer of bytes. (TVM takes `address_of` for the address of one byte.)"""
    return tirx.handle_add_byte_offset(memory.data, offset)


def tensor_argument(
    data: Expr, shape: Sequence[Expr], dtype: str, strides: Sequence[Expr] | None = None
) -> Expr:
    """A tensor, by default in compact order, as an argument of a call; its description is on the stack."""
    zero = tirx.const(0, "int64")
    shape_of = _stack_shape(shape)
    return tirx.call_intrin(
        "handle",
        "tirx.tvm_stack_make_array",
        data,
        shape_of,
        zero if strides is None else _stack_shape(strides),
        len(shape),
        tirx.const(0, dtype),
        zero,
    )


def _stack_shape(sizes: Sequence[Expr]) -> Expr:
    return tirx.call_intrin("handle", "tirx.tvm_stack_make_shape", *sizes)


def simplify(expression: Expr) -> Expr:
    """An equal expression with fewer operations."""
    return Analyzer().simplify(expression)


def compile_functions(functions: dict[str, PrimFunc], target: Target) -> Any:
    """Builds a runtime module whose entries are the given functions."""
    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    with PassContext(disabled_pass=_DISABLED_PASSES):
        return tvm.compile(IRModule(named), target=target)


__all__ = [
    "STACK_BYTES",
    "Buffer",
    "Expr",
    "IRBuilder",
    "IRModule",
    "PassContext",
    "PrimFunc",
    "T",
    "Target",
    "byte_address",
    "call_packed",
    "compile_functions",
    "ir",
    "relax",
    "simplify",
    "structural_equal",
    "tensor_argument",
    "tirx",
    "tvm",
]
