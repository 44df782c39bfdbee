"""A small vocabulary for writing kernels: arguments, loops, vectors and registers.

Kernels are Python functions that emit statements. A Python loop is unrolled into the program, `loop` becomes
a loop of it; vectors have explicit types, so nothing depends on an auto-vectorizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import mul

import numpy as np

from tbt_compile.codegen.tvm_api import Buffer, Expr, IRBuilder, PrimFunc, T

Shape = Sequence[Expr | int]

Body = Callable[[Expr], None]
"""Emits the body of a loop, given the loop variable."""

Load = Callable[[Expr, int], Expr]
"""`load(k, lanes)`: elements k .. k + lanes - 1 of a row."""
Chunk = Callable[[Expr, int], None]
"""`chunk(k, lanes)`: emits the work for elements k .. k + lanes - 1."""
Start = Callable[[int, Expr, int], Expr]
"""`start(plane, k, lanes)`: the words that new bits are added to."""

_OPAQUE = 8  # relax.OpPatternKind: never fused into a neighbour


def function(name: str, body: Callable[[], None]) -> PrimFunc:
    """The PrimFunc whose arguments and statements `body` emits."""
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "op_pattern": _OPAQUE})
        body()
    return builder.get()


def symbol(name: str) -> Expr:
    """A dimension that is only known at run time."""
    return IRBuilder.name(name, T.int64())


def argument(name: str, shape: Shape, dtype: str) -> Buffer:
    """The next tensor argument, contiguous.

    Args:
        name: of the argument.
        shape: sizes, symbols among them.
        dtype: of the elements.
    """
    handle = T.arg(name, T.handle())
    return IRBuilder.name(name, T.match_buffer(handle, tuple(shape), dtype))


def cache_argument(name: str, shape: Shape, dtype: str) -> Buffer:
    """The next tensor argument, strided in its first two dimensions.

    So a cache may have room for more tokens behind those of each head.

    Args:
        name: of the argument.
        shape: `[B, H, ...]`; the elements of one head are contiguous.
        dtype: of the elements.
    """
    return _strided(name, shape, dtype, ("batch", "head"))


def stack_argument(name: str, shape: Shape, dtype: str) -> Buffer:
    """The next tensor argument: the caches of several layers, each as `cache_argument` takes it.

    Args:
        name: of the argument.
        shape: `[layers, B, H, ...]`.
        dtype: of the elements.
    """
    return _strided(name, shape, dtype, ("layer", "batch", "head"))


def _strided(name: str, shape: Shape, dtype: str, dimensions: Sequence[str]) -> Buffer:
    """A tensor argument whose first dimensions are strided and whose others are contiguous."""
    strides = [symbol(f"{name}_per_{dimension}") for dimension in dimensions]
    strides += [T.int64(reduce(mul, shape[axis + 1 :], 1)) for axis in range(len(dimensions), len(shape))]
    sizes = tuple(T.int64(size) if isinstance(size, int) else size for size in shape)
    handle = T.arg(name, T.handle())
    # A part of a stack begins anywhere, not at a cache line.
    align = np.dtype(dtype).itemsize
    return IRBuilder.name(name, T.match_buffer(handle, sizes, dtype, strides=strides, align=align))


def scalar_argument(name: str) -> Expr:
    """The next argument, an int64 passed by value."""
    return T.arg(name, T.int64())


def scratch(name: str, shape: Shape, dtype: str) -> Buffer:
    """Uninitialised memory that lives until the enclosing loop or function ends.

    Args:
        name: of the buffer.
        shape: sizes; if all are known now and it is small, LLVM turns it into registers.
        dtype: of the elements.
    """
    return IRBuilder.name(name, T.alloc_buffer(tuple(shape), dtype))


def loop(name: str, *bounds: Expr | int) -> _Loop:
    """`with loop("i", n) as i` or `loop("i", start, stop)`."""
    return _Loop(name, T.serial(*bounds))


def parallel(name: str, extent: Expr | int) -> _Loop:
    """A loop whose iterations are shared out among the threads of TVM's pool."""
    return _Loop(name, T.parallel(extent))


class _Loop:
    """Gives the loop variable its name in the printed program."""

    def __init__(self, name: str, frame: Expr) -> None:
        self.name = name
        self.frame = frame

    def __enter__(self) -> Expr:
        return IRBuilder.name(self.name, self.frame.__enter__())

    def __exit__(self, *error: object) -> None:
        self.frame.__exit__(*error)


@contextmanager
def when(condition: Expr | bool) -> Iterator[None]:
    """Statements under a condition; a Python bool is decided now."""
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
    """If and else.

    Args:
        condition: a run-time condition, or a Python bool: then only one side is emitted.
        yes: emits the statements for true.
        no: emits those for false.
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
    """Computes a value once and names it. (TVM's analyzer cannot take one that holds a vector comparison.)"""
    return T.Bind(value)


def vector(dtype: str, lanes: int) -> str:
    """Name of a vector type; one lane is a scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Expr, lanes: int) -> Expr:
    """The same scalar in every lane."""
    return value if lanes == 1 else T.Broadcast(value, lanes)


def constant(value: float, dtype: str, lanes: int = 1) -> Expr:
    """A constant.

    Args:
        value: the number.
        dtype: of an element.
        lanes: elements of the vector; 1 for a scalar.
    """
    return splat(T.cast(value, dtype) if lanes else value, lanes)


def load(buffer: Buffer, *index: Expr | int, lanes: int = 1) -> Expr:
    """`lanes` neighbours along the last dimension, starting at `index`."""
    return buffer[_at(index, lanes)]


def store(buffer: Buffer, value: Expr, *index: Expr | int, lanes: int = 1) -> None:
    """Writes neighbours along the last dimension.

    Args:
        buffer: where to.
        value: a vector of `lanes`.
        index: of the first element.
        lanes: elements; 1 for a scalar.
    """
    T.buffer_store(buffer, value, list(_at(index, lanes)))


def prefetch(buffer: Buffer, *index: Expr | int) -> None:
    """Asks for the cache line of an element, which may lie behind the buffer's end; nothing is loaded."""
    address = T.address_of(buffer[tuple(index)])
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, T.int32(0), T.int32(3), T.int32(1)))


def load_rows(buffer: Buffer, index: Sequence[Expr], lanes: int) -> Expr:
    """Elements in memory order that may cross rows.

    Args:
        buffer: its last two dimensions are contiguous.
        index: the row whose first element is the first.
        lanes: elements.
    """
    shape = (*buffer.shape[:-2], buffer.shape[-2] * buffer.shape[-1])
    strides = [*buffer.strides[:-2], 1] if buffer.strides else None
    rows = T.decl_buffer(shape, buffer.dtype, data=buffer.data, strides=strides)
    return load(rows, *index[:-1], index[-1] * buffer.shape[-1], lanes=lanes)


def shuffle(value: Expr, lanes: Sequence[int]) -> Expr:
    """The given lanes of a vector, in that order; one lane gives a scalar."""
    return T.Shuffle([value], [T.int32(lane) for lane in lanes])


def concat(values: Sequence[Expr], lanes: int) -> Expr:
    """Vectors of `lanes` each, one after the other."""
    if len(values) == 1:
        return values[0]
    return T.Shuffle([let(value) for value in values], [T.int32(i) for i in range(len(values) * lanes)])


def _at(index: Sequence[Expr | int], lanes: int) -> tuple[Expr | int, ...]:
    return tuple(index) if lanes == 1 else (*index[:-1], T.Ramp(index[-1], 1, lanes))


class Register:
    """A scalar or vector variable; LLVM keeps it in a register as long as there are enough of them."""

    def __init__(self, name: str, dtype: str, lanes: int = 1, initial: Expr | None = None) -> None:
        self.lanes = lanes
        self.buffer = scratch(name, (lanes,), dtype)
        if initial is not None:
            self.set(initial)

    def get(self) -> Expr:
        """The current value."""
        return load(self.buffer, 0, lanes=self.lanes)

    def set(self, value: Expr) -> None:
        """Assigns a value."""
        store(self.buffer, value, 0, lanes=self.lanes)

    def add(self, value: Expr) -> None:
        """Adds to the value."""
        self.set(self.get() + value)


def cast(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Converts every lane.

    Args:
        value: a vector of `lanes`.
        dtype: of an element of the result.
        lanes: elements; 1 for a scalar.
    """
    return T.cast(value, vector(dtype, lanes))


def movemask(condition: Expr, lanes: int) -> Expr:
    """The truth of 8, 16, 32 or 64 lanes as one unsigned integer, lane 0 in bit 0."""
    return T.reinterpret(f"uint{lanes}", T.cast(condition, f"uint1x{lanes}"))


def reduce_lanes(value: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Reduces a vector to a scalar, in a fixed order: halves, then quarters, down to one lane.

    Args:
        value: a vector.
        lanes: its lanes, a power of two.
        combine: an associative operation on vectors of equal lanes.
    """
    while lanes > 1:
        lanes //= 2
        value = let(value)
        value = combine(shuffle(value, range(lanes)), shuffle(value, range(lanes, 2 * lanes)))
    return let(value)
