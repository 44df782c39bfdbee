"""Elementwise functions of floats that TVM has not: floats as integers of the same order, and back.

TVM's `max` and its sort compare floats, and no comparison is true of NaN: it is lost, or breaks the order.
The bits of a float, read as an integer, are in the order of the floats once negative ones are flipped; NaN
gets a place at the end. Maxima of integers are associative, so that LLVM vectorizes reductions of keys, which
it must not do with floats.
"""

from __future__ import annotations

from tbt_compile.codegen.tvm_api import Expr, te, tirx

_INFINITY = {"float32": 0x7F800000, "float64": 0x7FF0000000000000}
_LARGEST = {"float32": 0x7FFFFFFF, "float64": 0x7FFFFFFFFFFFFFFF}
_INTEGER = {"float32": "int32", "float64": "int64"}


def has_keys(dtype: str) -> bool:
    """Whether tensors of a dtype are compared by keys: integers are compared as they are."""
    return dtype in _INTEGER


def keys(x: te.Tensor, nan_first: bool = False, signed_zeros: bool = False) -> te.Tensor:
    """The keys of a tensor.

    Args:
        x: float32 or float64.
        nan_first: whether NaN is the smallest instead of the largest.
        signed_zeros: whether -0 comes before 0; else they are equal.

    Returns:
        int32 or int64, of the same shape.
    """
    dtype = str(x.dtype)
    integer, largest = _INTEGER[dtype], tirx.const(_LARGEST[dtype], _INTEGER[dtype])
    nan = -largest - 1 if nan_first else largest

    def key(*at: Expr) -> Expr:
        bits = tirx.reinterpret(integer, x[at])
        magnitude = bits & largest
        number = tirx.Select(bits < 0, bits ^ largest if signed_zeros else -magnitude, bits)
        return tirx.Select(magnitude > tirx.const(_INFINITY[dtype], integer), nan, number)

    return te.compute(x.shape, key, name="keys")


def floats(keyed: te.Tensor) -> te.Tensor:
    """The floats of keys with signed zeros; the sign and the payload of a NaN are not kept."""
    dtype = next(dtype for dtype, integer in _INTEGER.items() if integer == str(keyed.dtype))
    largest = tirx.const(_LARGEST[dtype], str(keyed.dtype))

    def value(*at: Expr) -> Expr:
        key = keyed[at]
        return tirx.reinterpret(dtype, tirx.Select(key < 0, key ^ largest, key))

    return te.compute(keyed.shape, value, name="floats")


def times_zero(x: te.Tensor) -> te.Tensor:
    """The product of floats and 0: NaN of what is not finite, else a zero of the same sign."""
    dtype = str(x.dtype)
    integer = _INTEGER[dtype]
    largest, infinity = tirx.const(_LARGEST[dtype], integer), tirx.const(_INFINITY[dtype], integer)

    def zero(*at: Expr) -> Expr:
        bits = tirx.reinterpret(integer, x[at])
        return tirx.reinterpret(dtype, tirx.Select((bits & largest) >= infinity, largest, bits & ~largest))

    return te.compute(x.shape, zero, name="zeros")


def c_function(x: te.Tensor, name: str) -> te.Tensor:
    """A function of the C library, of float32 or float64 elements."""
    dtype = str(x.dtype)
    symbol = name if dtype == "float64" else f"{name}f"
    return te.compute(x.shape, lambda *at: tirx.call_pure_extern(dtype, symbol, x[at]), name=name)
