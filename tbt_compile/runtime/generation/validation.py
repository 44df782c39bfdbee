"""Validation of single generation settings.

Every function takes the setting's name and the user's value (lists, tuples, sets and ranges, NumPy and torch
numbers and arrays, one id where several are possible). It returns an immutable canonical value, or raises a
`GenerationError` that names the setting.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from tbt_compile.errors import GenerationError


def plain(value: Any) -> Any:
    """Return a NumPy or torch scalar or array as Python numbers, and a set as a list in a fixed order.

    >>> import numpy as np
    >>> plain(np.array([2, 3])), plain(np.float32(0.5)), plain({7, 3})
    ([2, 3], 0.5, [3, 7])
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value, key=repr) if isinstance(value, Set) else value


def integer(name: str, value: Any, minimum: int = 0) -> int:
    """Check an integer; refuses booleans, which are nearly always a mistake.

    Args:
        name: of the setting.
        value: an int, or a NumPy or torch integer.
        minimum: the smallest valid value.

    Returns:
        The value as an int.

    Raises:
        GenerationError: the value is not an integer, or below `minimum`.
    """
    value = plain(value)
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise GenerationError(f"{name}={value!r}: expected an integer") from None
    if number < minimum:
        raise GenerationError(f"{name}={value!r}: expected an integer of at least {minimum}")
    return number


def count(name: str, value: Any) -> int:
    """Check a positive integer."""
    return integer(name, value, minimum=1)


def number(name: str, value: Any) -> float:
    """Check a finite number; returns a float."""
    value = plain(value)
    if isinstance(value, (bool, str, bytes)):
        raise GenerationError(f"{name}={value!r}: expected a number")
    try:
        result = float(value)
    except OverflowError:
        raise GenerationError(f"{name}={value!r}: expected a number that a float can hold") from None
    except (TypeError, ValueError):
        raise GenerationError(f"{name}={value!r}: expected a number") from None
    if not math.isfinite(result):
        raise GenerationError(f"{name}={value!r}: expected a finite number")
    return result


def positive_number(name: str, value: Any) -> float:
    """Check a finite number above zero; returns a float."""
    result = number(name, value)
    if result <= 0:
        raise GenerationError(f"{name}={value!r}: expected a number above zero")
    return result


def share(name: str, value: Any) -> float:
    """Check a number from 0 to 1; returns a float."""
    result = number(name, value)
    if not 0 <= result <= 1:
        raise GenerationError(f"{name}={value!r}: expected a number from 0 to 1")
    return result


def flag(name: str, value: Any) -> bool:
    """Check a boolean."""
    if not isinstance(value, bool):
        raise GenerationError(f"{name}={value!r}: expected True or False")
    return value


def early_stopping(name: str, value: Any) -> bool | str:
    """Check True, False or "never"."""
    if isinstance(value, (bool, str)) and value in (True, False, "never"):
        return value
    raise GenerationError(f"{name}={value!r}: expected True, False or 'never'")


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Check one token id or several; returns a tuple."""
    value = plain(value)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return tuple(integer(name, item) for item in value)
    return (integer(name, value),)


def id_or_ids(name: str, value: Any) -> int | tuple[int, ...]:
    """Check one token id for all rows, or one per row, as a tuple."""
    ids = token_ids(name, value)
    return ids if isinstance(plain(value), Iterable) else ids[0]


def token_sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Check a list of non-empty token sequences."""
    return tuple(_sequence(name, item) for item in _items(name, value))


def sequence_bias(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Check pairs (token sequence, bias), from a dict or a list of pairs."""
    pairs = []
    for item in value.items() if isinstance(value, Mapping) else _items(name, value):
        item = plain(item)
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise GenerationError(f"{name}={value!r}: expected pairs (token sequence, bias)")
        pairs.append((_sequence(name, item[0]), number(name, item[1])))
    return tuple(pairs)


def start_and_factor(name: str, value: Any) -> tuple[int, float]:
    """Check a pair (number of tokens, factor)."""
    value = plain(value)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise GenerationError(f"{name}={value!r}: expected a pair (start, factor)")
    return integer(name, value[0]), positive_number(name, value[1])


def _items(name: str, value: Any) -> Iterable[Any]:
    value = plain(value)
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise GenerationError(f"{name}={value!r}: expected a list of token sequences")
    return value


def _sequence(name: str, value: Any) -> tuple[int, ...]:
    ids = token_ids(name, value) if isinstance(plain(value), Iterable) else ()
    if not ids:
        raise GenerationError(f"{name}: {value!r} is not a non-empty list of token ids")
    return ids
