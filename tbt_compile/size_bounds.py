"""Bounds on the sizes of a call, from the branches of the forward: kept in the manifest, checked at calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SizeBound:
    """One bound of one size.

    Attributes:
        size: name of the size.
        limit: the largest size that may be, or the smallest.
        largest: which of the two.
        reason: why, as the end of a sentence.

    >>> SizeBound("tokens", 16, True, "the forward takes another branch beyond").demand()
    'expected at most 16: the forward takes another branch beyond'
    """

    size: str
    limit: int
    largest: bool
    reason: str

    def excludes(self, value: int) -> bool:
        """Whether the size may not have this value."""
        return value > self.limit if self.largest else value < self.limit

    def demand(self) -> str:
        """What is expected, and why."""
        return f"expected at {'most' if self.largest else 'least'} {self.limit}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """The bound as JSON-ready values; `SizeBound(**values)` reads it."""
        return asdict(self)


def tightest(bounds: Iterable[SizeBound]) -> list[SizeBound]:
    """The bounds without those that follow from another one."""
    kept: dict[tuple[str, bool], SizeBound] = {}
    for bound in bounds:
        key = bound.size, bound.largest
        if key not in kept or bound.excludes(kept[key].limit):
            kept[key] = bound
    return list(kept.values())


def broken(bounds: Iterable[SizeBound], sizes: Mapping[str, int]) -> SizeBound | None:
    """The first bound that the sizes of a call break, if any; sizes without a bound do not matter."""
    return next(
        (bound for bound in bounds if bound.size in sizes and bound.excludes(sizes[bound.size])), None
    )
