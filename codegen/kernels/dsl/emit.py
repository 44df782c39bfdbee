"""A small TIR dialect for kernels: arguments, loops, vectors and registers.

Kernels are Python functions that emit TIR statements. A Python loop is unrolled; `loop` emits a loop. Vector
types are explicit: nothing depends on an auto-vectorizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import mul

import numpy as np

from tbt_compile.codegen.tvm_api import OPAQUE, Buffer, Expr, IRBuilder, PrimFunc, T

Shape = Sequence[Expr | int]

Body = Callable[[Expr], None]
"""Emits the body of a loop, given the loop variable."""

Load = Callable[[Expr, int], Expr]
"""`load(k, lanes)`: elements k .. k + lanes - 1 of a row."""
Chunk = Callable[[Expr, int], None]
"""`chunk(k, lanes)`: emits the work for elements k .. k + lanes - 1."""
Start = Callable[[int, Expr, int], Expr]
"""`start(plane, k, lanes)`: the initial words, to which new bits are added."""


def function(name: str, body: Callable[[], None]) -> PrimFunc:
    """Build a PrimFunc; `body` emits its arguments and statements."""
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        body()
    return builder.get()


def symbol(name: str) -> Expr:
    """A symbolic dimension, int64."""
    return IRBuilder.name(name, T.int64())


def argument(name: str, shape: Shape, dtype: str) -> Buffer:
    """Declare the next tensor argument, contiguous, and return its buffer.

    Args:
        name: of the argument.
        shape: static or symbolic sizes.
        dtype: of the elements.
    """
    handle = T.arg(name, T.handle())
    return IRBuilder.name(name, T.match_buffer(handle, tuple(shape), dtype))


def cache_argument(name: str, shape: Shape, dtype: str) -> Buffer:
    """Declare the next tensor argument, a cache strided in its first two dimensions.

    The strides leave room for more tokens at the end of each head of a cache.

    Args:
        name: of the argument.
        shape: `[B, H, ...]`; the elements of one head are contiguous.
        dtype: of the elements.
    """
    return _strided(name, shape, dtype, ("batch", "head"))


def stack_argument(name: str, shape: Shape, dtype: str) -> Buffer:
    """Declare the next tensor argument, a stack of caches strided in its first three dimensions.

    Args:
        name: of the argument.
        shape: `[layers, B, H, ...]`; the elements of one head are contiguous.
        dtype: of the elements.
    """
    return _strided(name, shape, dtype, ("layer", "batch", "head"))


def _strided(name: str, shape: Shape, dtype: str, dimensions: Sequence[str]) -> Buffer:
    """Declare a tensor argument whose leading dimensions are strided and whose others are contiguous."""
    strides = [symbol(f"{name}_per_{dimension}") for dimension in dimensions]
    strides += [T.int64(reduce(mul, shape[axis + 1 :], 1)) for axis in range(len(dimensions), len(shape))]
    sizes = tuple(T.int64(size) if isinstance(size, int) else size for size in shape)
    handle = T.arg(name, T.handle())
    # A slice of a stack is not aligned to a cache line.
    align = np.dtype(dtype).itemsize
    return IRBuilder.name(name, T.match_buffer(handle, sizes, dtype, strides=strides, align=align))


def scalar_argument(name: str) -> Expr:
    """Declare the next argument, an int64 passed by value."""
    return T.arg(name, T.int64())


def scratch(name: str, shape: Shape, dtype: str) -> Buffer:
    """Allocate an uninitialised buffer that lives until the enclosing loop or function ends.

    Args:
        name: of the buffer.
        shape: sizes; LLVM promotes a small buffer of static size to registers.
        dtype: of the elements.
    """
    return IRBuilder.name(name, T.alloc_buffer(tuple(shape), dtype))


def loop(name: str, *bounds: Expr | int) -> _Loop:
    """A serial loop: `with loop("i", n) as i`, or `loop("i", start, stop)`."""
    return _Loop(name, T.serial(*bounds))


def parallel(name: str, extent: Expr | int) -> _Loop:
    """A loop whose iterations are distributed over TVM's thread pool."""
    return _Loop(name, T.parallel(extent))


class _Loop:
    """A loop frame that names its loop variable."""

    def __init__(self, name: str, frame: Expr) -> None:
        self.name = name
        self.frame = frame

    def __enter__(self) -> Expr:
        return IRBuilder.name(self.name, self.frame.__enter__())

    def __exit__(self, *error: object) -> None:
        self.frame.__exit__(*error)


@contextmanager
def when(condition: Expr | bool) -> Iterator[None]:
    """Emit the `with` block under a condition; a Python bool is decided at build time."""
    if isinstance(condition, bool):
        if condition:
            yield
        else:
            with T.If(T.bool(False)), T.Then():
                yield
        return
    with T.If(condition), T.Then():
        yield


def branch(condition: Expr | bool, yes: Callable[[], None], no: Callable[[], None]) -> None:
    """Emit an if-else.

    Args:
        condition: a run-time condition, or a Python bool: then only one side is emitted.
        yes: emits the then branch.
        no: emits the else branch.
    """
    if isinstance(condition, bool):
        (yes if condition else no)()
        return
    with T.If(condition):
        with T.Then():
            yes()
        with T.Else():
            no()


def let(value: Expr) -> Expr:
    """Bind a value to a variable: it is computed once. (TVM's analyzer fails on vector comparisons in it.)"""
    return T.Bind(value)


def vector(dtype: str, lanes: int) -> str:
    """The name of a vector type; one lane is a scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Expr, lanes: int) -> Expr:
    """Broadcast a scalar to `lanes` lanes."""
    return value if lanes == 1 else T.Broadcast(value, lanes)


def constant(value: float, dtype: str, lanes: int = 1) -> Expr:
    """A scalar constant, broadcast to `lanes` lanes.

    Args:
        value: the number.
        dtype: of an element.
        lanes: lanes of the result; 1 for a scalar.
    """
    return splat(T.cast(value, dtype) if lanes else value, lanes)


def load(buffer: Buffer, *index: Expr | int, lanes: int = 1) -> Expr:
    """Load `lanes` contiguous elements along the last dimension, starting at `index`."""
    return buffer[_at(index, lanes)]


def store(buffer: Buffer, value: Expr, *index: Expr | int, lanes: int = 1) -> None:
    """Store contiguous elements along the last dimension.

    Args:
        buffer: the destination.
        value: a vector of `lanes`.
        index: indices of the first element.
        lanes: number of elements; 1 for a scalar.
    """
    T.buffer_store(buffer, value, list(_at(index, lanes)))


def prefetch(buffer: Buffer, *index: Expr | int) -> None:
    """Prefetch the cache line of an element; an address past the end of the buffer is harmless."""
    address = T.address_of(buffer[tuple(index)])
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, T.int32(0), T.int32(3), T.int32(1)))


def reread(buffer: Buffer) -> Buffer:
    """The same buffer at an address that LLVM takes for another one.

    What is read from it, and what is computed of that alone, is then not hoisted out of the enclosing loop.
    """
    address = T.address_of(buffer[tuple(0 for _ in buffer.shape)])
    data = T.Bind(T.call_llvm_intrin("handle", "llvm.launder.invariant.group", address))
    strides, align = buffer.strides or None, buffer.data_alignment
    return T.decl_buffer(buffer.shape, buffer.dtype, data=data, strides=strides, align=align)


def load_rows(buffer: Buffer, index: Sequence[Expr], lanes: int) -> Expr:
    """Load contiguous elements across rows.

    Args:
        buffer: the source; its last two dimensions are contiguous.
        index: indices of the first row; the load starts at its first element.
        lanes: number of elements.
    """
    shape = (*buffer.shape[:-2], buffer.shape[-2] * buffer.shape[-1])
    strides = [*buffer.strides[:-2], 1] if buffer.strides else None
    rows = T.decl_buffer(shape, buffer.dtype, data=buffer.data, strides=strides)
    return load(rows, *index[:-1], index[-1] * buffer.shape[-1], lanes=lanes)


def shuffle(value: Expr, lanes: Sequence[int]) -> Expr:
    """Permute or select lanes of a vector; one lane gives a scalar."""
    return select([value], lanes)


def select(values: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """Lanes of several vectors, counted through all of them."""
    return T.Shuffle(list(values), [T.int32(lane) for lane in lanes])


def concat(values: Sequence[Expr], lanes: int) -> Expr:
    """Concatenate vectors of `lanes` each."""
    if len(values) == 1:
        return values[0]
    return select([let(value) for value in values], range(len(values) * lanes))


def _at(index: Sequence[Expr | int], lanes: int) -> tuple[Expr | int, ...]:
    return tuple(index) if lanes == 1 else (*index[:-1], T.Ramp(index[-1], 1, lanes))


class Register:
    """A mutable scalar or vector variable; LLVM promotes it to a register unless it has to spill."""

    def __init__(self, name: str, dtype: str, lanes: int = 1, initial: Expr | None = None) -> None:
        self.lanes = lanes
        self.buffer = scratch(name, (lanes,), dtype)
        if initial is not None:
            self.set(initial)

    def get(self) -> Expr:
        """The current value."""
        return load(self.buffer, 0, lanes=self.lanes)

    def set(self, value: Expr) -> None:
        """Assign a value."""
        store(self.buffer, value, 0, lanes=self.lanes)

    def add(self, value: Expr) -> None:
        """Add to the current value."""
        self.set(self.get() + value)


def cast(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Convert every lane.

    Args:
        value: a vector of `lanes`.
        dtype: element type of the result.
        lanes: lanes of `value` and of the result; 1 for a scalar.
    """
    return T.cast(value, vector(dtype, lanes))


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c, rounded once; a call of `fmaf` for each lane where the CPU has no FMA.

    Args:
        a, b, c: floats, of equal lanes.
    """
    return T.call_llvm_pure_intrin(a.ty.dtype, "llvm.fma", a, b, c)


def movemask(condition: Expr, lanes: int) -> Expr:
    """Pack a mask of 8, 16, 32 or 64 boolean lanes into an unsigned integer, lane 0 in bit 0."""
    return T.reinterpret(f"uint{lanes}", T.cast(condition, f"uint1x{lanes}"))


def reduce_lanes(value: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Reduce a vector to a scalar in a fixed order: combine its halves, then the quarters, down to one lane.

    Args:
        value: a vector of `lanes`.
        lanes: a power of two.
        combine: an associative operation on vectors of equal lanes.
    """
    while lanes > 1:
        lanes //= 2
        value = let(value)
        value = combine(shuffle(value, range(lanes)), shuffle(value, range(lanes, 2 * lanes)))
    return let(value)
