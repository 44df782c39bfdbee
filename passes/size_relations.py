"""What is known of a relation of positive sizes: whether it always holds, and for which sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy

RANGES = (sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge, sympy.Ne)
MOST_TRIED = 1 << 20
"""The largest size for which a relation that cannot be solved is tried."""
_DIVISIONS = {"FloorDiv": np.floor_divide, "PythonMod": np.mod, "Mod": np.mod, "CleanDiv": np.floor_divide}
_FUNCTIONS = {
    **_DIVISIONS,
    "IntTrueDiv": np.true_divide,
    "FloatTrueDiv": np.true_divide,
    "FloatPow": np.float_power,
    "PowByNatural": np.power,
    "OpaqueUnaryFn_sqrt": np.sqrt,
    "ToFloat": np.float64,
    "TruncToFloat": np.trunc,
    "TruncToInt": np.trunc,
    "FloorToInt": np.floor,
    "CeilToInt": np.ceil,
    "RoundToInt": np.rint,
    "LShift": np.left_shift,
    "RShift": np.right_shift,
    "BitwiseFn_bitwise_and": np.bitwise_and,
    "BitwiseFn_bitwise_or": np.bitwise_or,
    "BitwiseFn_bitwise_xor": np.bitwise_xor,
    "Identity": np.asarray,
}
"""What computes the functions of Python's numbers that torch adds to sympy, by name."""


def truth(relation: Any, symbol: sympy.Symbol) -> npt.NDArray[np.bool_]:
    """Whether a relation holds for each size 1, 2, ..., `MOST_TRIED`."""
    sizes = np.arange(1, MOST_TRIED + 1)
    found = sympy.lambdify(symbol, relation, modules=[_FUNCTIONS, "numpy"])(sizes)
    return np.broadcast_to(np.asarray(found, bool), sizes.shape)


def without_positive_factors(relation: Any) -> Any:
    """A relation of two sizes as one of a single size, where the other can be any.

    `a * rows == 0` and `a * rows != 0` are so of a alone; `a * rows + b >= 0` holds for all rows if it does
    for one and a is never negative.
    """
    if len(relation.free_symbols) != 2 or not isinstance(relation, (*RANGES, sympy.Eq)):
        return relation
    difference = sympy.expand(relation.lhs - relation.rhs)
    for symbol in relation.free_symbols:
        (other,) = relation.free_symbols - {symbol}
        slope = difference.coeff(symbol, 1)
        rest = sympy.expand(difference - slope * symbol)
        if slope.free_symbols != {other} or symbol in rest.free_symbols:
            continue
        if isinstance(relation, (sympy.Eq, sympy.Ne)) and rest == 0:
            return relation.func(slope, 0)
        if isinstance(relation, sympy.Ne) and rest == -1:
            return sympy.true  # breaks where the size is 1, and `smallest_sizes` makes such calls
        if isinstance(relation, sympy.Ne) and rest.is_positive and truth(slope >= 0, other).all():
            return sympy.true
        if isinstance(relation, (sympy.Ge, sympy.Gt)) and truth(slope >= 0, other).all():
            return relation.subs(symbol, 1)
    return relation


def simplified(relation: Any) -> Any:
    """A relation of positive sizes without remainders and minima that are known.

    >>> rows, tokens = sympy.symbols("rows tokens", integer=True, positive=True)
    >>> simplified(sympy.Eq(tokens * sympy.Min(32, 32 * tokens), 32 * tokens))
    True
    """
    known = relation.replace(lambda part: type(part).__name__ in _REMAINDERS, _remainder)
    return known.replace(lambda part: type(part).__name__ == "Min", _smallest_of)


_REMAINDERS = ("Mod", "PythonMod")


def _remainder(part: Any) -> Any:
    """`a % b`: 0 where `a / b` has whole coefficients; `(s * a) % (s * b)` is `s * (a % b)`."""
    value, divisor = part.args
    ratio = sympy.cancel(sympy.expand(value) / divisor)
    coefficients = _coefficients(ratio)
    if coefficients is not None and all(each.is_Integer for each in coefficients):
        return sympy.Integer(0)
    for symbol in value.free_symbols & divisor.free_symbols:
        parts = [sympy.expand(each / symbol) for each in (value, divisor)]
        if not any(symbol in each.free_symbols for each in parts):
            return symbol * part.func(*parts)
    return part


def _smallest_of(part: Any) -> Any:
    """The smallest operand of a minimum, if one is at most every other for all positive sizes."""
    for one in part.args:
        if all(_is_never_negative(other - one) for other in part.args):
            return one
    return part


def _is_never_negative(value: Any) -> bool:
    shifted = value.subs({symbol: symbol + 1 for symbol in value.free_symbols}, simultaneous=True)
    coefficients = _coefficients(shifted)
    return coefficients is not None and all(each >= 0 for each in coefficients)


def _coefficients(value: Any) -> list[Any] | None:
    """The coefficients of a polynomial of sizes, or a number; None for anything else."""
    if value.is_number:
        return [value]
    if not value.is_polynomial(*value.free_symbols):
        return None
    return list(sympy.Poly(value, *value.free_symbols).coeffs())


def modulus(relations: Iterable[Any]) -> int:
    """The least common multiple of the numbers by which relations divide a size; 1 if they do not.

    >>> source = sympy.Symbol("source", integer=True, positive=True)
    >>> modulus([sympy.Ne(sympy.Mod(source, 128) + source, 4), sympy.Ne(sympy.Mod(source + 1, 6), 1)])
    384
    """
    parts = (part for relation in relations for part in relation.atoms(sympy.Function))
    divided = [part.args for part in parts if type(part).__name__ in _DIVISIONS]
    return math.lcm(*(int(by) for value, by in divided if by.is_Integer and _is_size(value)))


def _is_size(value: Any) -> bool:
    """Whether an expression is a size or its negative, plus a number."""
    symbols = value.free_symbols
    return len(symbols) == 1 and (value - value.subs(dict.fromkeys(symbols, 0))) ** 2 in {
        s**2 for s in symbols
    }


def excluded_remainder(relation: Any) -> tuple[sympy.Symbol, int, int] | None:
    """The size, the modulus and the remainder of `(size + c) % modulus != r`."""
    if not isinstance(relation, sympy.Ne) or type(relation.lhs).__name__ not in _REMAINDERS:
        return None
    value, modulus = relation.lhs.args
    if len(value.free_symbols) != 1 or not modulus.is_Integer or not relation.rhs.is_Integer:
        return None
    (symbol,) = value.free_symbols
    more = value - symbol
    if not more.is_Integer:
        return None
    return symbol, int(modulus), int(relation.rhs - more) % int(modulus)
