"""Random inputs for `fuzz.py`: bytes and JSON values that are nearly right."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 8, 63, 2**31, 2**63, -(2**63), 2**70, 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "0", "2-2-2", "ä", "\ud800", "\0", "../x", "/etc/passwd", "a" * 3000,
    "float32", "object", [], {}, [[]], [None], [0] * 50, {"": 0}, {"a": {"a": {}}},
)  # fmt: skip
"""Values that code forgets."""
_TOKENS = b'{}[]",:0123456789-+eE.nultrfas \n\\\x00\xff\xef\xbb\xbf'


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """A few changes: bytes flipped, numbers made extreme, pieces cut out, doubled, swapped or put in."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(changed) + 1)
        length = min(chance.choice((1, 1, 2, 4, 8, 64)), len(changed) - place)
        piece = changed[place : place + length]
        choices: list[Callable[[], bytes]] = [
            lambda piece=piece: bytes(byte ^ 1 << chance.randrange(8) for byte in piece),
            lambda length=length: bytes(chance.choice((0, 1, 0x7F, 0x80, 0xFF)) for _ in range(length)),
            lambda length=length: bytes(chance.choice(_TOKENS) for _ in range(length + 1)),
            lambda: b"",
            lambda piece=piece: bytes(piece * chance.choice((2, 3, 30))),
        ]
        changed[place : place + length] = chance.choice(choices)()
        if chance.random() < 0.05:
            del changed[chance.randrange(len(changed) + 1) :]
    return bytes(changed)


def mutated_text(text: str, chance: random.Random) -> str:
    """A text with a few changes; it may come to hold any character."""
    changed = list(text)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(changed) + 1)
        put = chance.choice(
            ("", "", "-", " ", "0", "9", "٣", "²", "=", ",", "\n", "\0", "ä", "\U0001f600", "x" * 500)
        )
        changed[place : place + chance.randrange(3)] = put
    return "".join(changed)


def mutated_json(value: Any, chance: random.Random) -> Any:
    """A JSON value with one or more places changed: a value of another type, a field dropped or added."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        value = _changed(value, chance)
    return value


def _changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        kind = chance.random()
        if kind < 0.1:
            return {each: value[each] for each in value if each != name}
        if kind < 0.15:
            return {**value, chance.choice(("", "x", name.upper(), f"{name} ")): chance.choice(ODD)}
        return {**value, name: _changed(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        kind = chance.random()
        if kind < 0.15:
            return value[:place] + value[place + 1 :]
        if kind < 0.25:
            return [*value, value[place]]
        return [*value[:place], _changed(value[place], chance), *value[place + 1 :]]
    if isinstance(value, str) and chance.random() < 0.4:
        return mutated_text(value, chance)
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 7, -value, 2**32, -(2**40)))
    return chance.choice(ODD)


def as_json(value: Any) -> bytes:
    """The text of a JSON value; half of a surrogate pair stays an escape."""
    return json.dumps(value).encode()
