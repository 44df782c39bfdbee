"""Types of the values in a JSON document, as data, and the first value that does not fit.

A type is one of

    str, int, float, bool, None    a value of that type; a float may be written as an integer
    Any                            any value
    (one, other)                   one of several
    [type]                         a list
    Row(one, other)                a list of so many values
    {str: type}                    names that the document chooses
    {"name": type, "more?": type}  a record; "?" marks what may be missing; further fields are ignored
    Only({"name": type})           a record without further fields
    a function                     takes the value and its place, returns what is wrong
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

OPTIONAL = "?"
_SHOWN = 40
_SCALARS = {str: "text", int: "an integer", float: "a number", bool: "true or false", None: "null"}


@dataclass(frozen=True, init=False)
class Row:
    """A list of a fixed number of values.

    Args:
        types: of each.
    """

    types: tuple[Any, ...]

    def __init__(self, *types: Any) -> None:
        object.__setattr__(self, "types", types)


@dataclass(frozen=True)
class Only:
    """A record that may have no further fields.

    Attributes:
        fields: their types, as of other records.
    """

    fields: Mapping[str, Any]


def misfit(value: Any, wanted: Any, place: str = "") -> str | None:
    """Return what is wrong with the first value that has another type than it should, None if all fit.

    Args:
        value: of a JSON document.
        wanted: its type, as the module describes them.
        place: where it is, for the message.

    >>> misfit({"size": 3, "more": []}, {"size": int, "name?": str})
    >>> misfit({"rows": [1, "2"]}, {"rows": [int]})
    "rows[1] is '2': expected an integer"
    """
    if wanted is Any:
        return None
    if isinstance(wanted, tuple):
        found = [misfit(value, each, place) for each in wanted]
        return None if None in found else found[0]
    if isinstance(wanted, Only):
        known = {name.removesuffix(OPTIONAL) for name in wanted.fields}
        further = [name for name in value if name not in known] if isinstance(value, dict) else []
        return f"{place} has the field {further[0]!r}" if further else misfit(value, wanted.fields, place)
    if isinstance(wanted, Mapping):
        return _first(_in_record(value, wanted, place))
    if isinstance(wanted, list):
        return _first(_in_list(value, wanted * len(value) if isinstance(value, list) else wanted, place))
    if isinstance(wanted, Row):
        return _first(_in_list(value, list(wanted.types), place))
    if wanted not in _SCALARS:
        outcome: str | None = wanted(value, place)
        return outcome
    return None if _is(value, wanted) else _wrong(place, value, _SCALARS[wanted])


def _in_record(value: Any, wanted: Mapping[Any, Any], place: str) -> Iterator[str | None]:
    if not isinstance(value, dict):
        yield _wrong(place, value, "an object")
    elif str in wanted:
        for name, each in value.items():
            yield misfit(each, wanted[str], f"{place}[{name!r}]")
    else:
        inside = f"{place}." if place else ""
        for name, of_field in wanted.items():
            plain = name.removesuffix(OPTIONAL)
            if plain in value:
                yield misfit(value[plain], of_field, f"{inside}{plain}")
            elif name == plain:
                yield f"{inside}{plain} is missing"


def _in_list(value: Any, wanted: list[Any], place: str) -> Iterator[str | None]:
    if not isinstance(value, list):
        yield _wrong(place, value, "a list")
    elif len(value) != len(wanted):
        yield f"{place} has {len(value)} values: expected {len(wanted)}"
    else:
        for index, (each, of_item) in enumerate(zip(value, wanted, strict=True)):
            yield misfit(each, of_item, f"{place}[{index}]")


def _is(value: Any, wanted: Any) -> TypeGuard[Any]:
    if wanted is None or isinstance(value, bool):
        return value is None if wanted is None else wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def _first(found: Iterator[str | None]) -> str | None:
    return next((each for each in found if each is not None), None)


def _wrong(place: str, value: Any, expected: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return f"{place or 'it'} is {shown}: expected {expected}"
