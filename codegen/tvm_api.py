"""All TVM names that this package uses, in one place.

TVM moves its Python API between minor versions (tir became tirx, NDArray became runtime.Tensor, the script
builder changed package). When it moves again, this is the only file to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.sym import Analyzer
from tvm.target import Target, codegen
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T
from tvm_ffi import structural_equal, structural_hash, structural_map, structural_walk

from tbt_compile.codegen.library import threads

threads.set_defaults()

IRModule = ir.IRModule
PassContext = tvm.transform.PassContext

Expr = Any
"""A scalar or vector expression of the program being built."""
Buffer = Any
"""A tensor argument or a scratch buffer of the program being built."""

OPAQUE = 8
"""TVM's kind (`relax.OpPatternKind`) of a function that is never fused with others."""

# Scratch buffers below this many bytes live on the stack, where LLVM turns them into registers; larger ones
# come from TVM's per-thread workspace pool.
STACK_BYTES = 1024


def call_packed(name: str, arguments: Sequence[Expr], declared: set[str]) -> Expr:
    """Call another function of the same library through TVM's packed calling convention.

    Functions are compiled apart. The first call of one has to name its symbol, which declares it; TVM finds
    the declaration for calls by name, and would declare a second symbol for a second one.

    Args:
        name: of the function.
        arguments: integers and tensors.
        declared: the functions that were called before in this function; `name` is added.

    Returns:
        The call.
    """
    symbol = name if name in declared else f"__tvm_ffi_{name}"
    declared.add(name)
    return tirx.call_cpacked(symbol, *arguments)


def byte_address(memory: Buffer, offset: Expr) -> Expr:
    """The address at a byte offset in a buffer. (TVM treats `address_of` as an access to a single byte.)"""
    return tirx.handle_add_byte_offset(memory.data, offset)


def tensor_argument(
    data: Expr, shape: Sequence[Expr], dtype: str, strides: Sequence[Expr] | None = None
) -> Expr:
    """Pass memory as a tensor argument of a call; the tensor descriptor is on the stack.

    Args:
        data: address of the first element.
        shape: sizes, int64.
        dtype: of the elements.
        strides: strides in elements; None if contiguous.

    Returns:
        The argument.
    """
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
    """Simplify an arithmetic expression."""
    return Analyzer().simplify(expression)


def value_at(expression: Expr, value: int) -> Expr:
    """Simplify an arithmetic expression of which all variables have one value."""
    analyzer = Analyzer()
    for variable in tirx.analysis.undefined_vars(expression):
        analyzer.bind(variable, tirx.const(value, "int64"))
    return analyzer.simplify(expression)


def compiler_version() -> str:
    """The versions of TVM and its LLVM, and what tells two builds of one version apart."""
    built = sorted((Path(tvm.__file__).parent / "lib").glob("*tvm_compiler.*"))
    facts = [file.stat() for file in built]
    builds = [f"{fact.st_size} {fact.st_mtime_ns}" for fact in facts]
    return " ".join([tvm.__version__, str(codegen.llvm_version_major()), *builds])


def static_size(size: Any) -> int | None:
    """The size of a dimension; None for one that is known at run time only."""
    return int(size) if isinstance(size, (int, tirx.IntImm)) else None


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
    "compiler_version",
    "ir",
    "relax",
    "simplify",
    "static_size",
    "structural_equal",
    "structural_hash",
    "structural_map",
    "structural_walk",
    "te",
    "tensor_argument",
    "tirx",
    "tvm",
]
