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
        modulus: if set, the bound is another: no size that leaves the remainder `limit` when it is divided by
            this.
        last: if set, the bound is another: no size from `limit` to this one.

    >>> SizeBound("tokens", 16, True, "the forward takes another branch beyond").demand()
    'expected at most 16: the forward takes another branch beyond'
    >>> SizeBound("source", 0, False, "the forward takes another branch there", 8).demand()
    'expected no multiple of 8: the forward takes another branch there'
    """

    size: str
    limit: int
    largest: bool
    reason: str
    modulus: int | None = None
    last: int | None = None

    @property
    def one_sided(self) -> bool:
        """Whether the bound is the largest or the smallest size."""
        return self.modulus is None and self.last is None

    def excludes(self, value: int) -> bool:
        """Whether the size may not have this value."""
        if self.modulus is not None:
            return value % self.modulus == self.limit
        if self.last is not None:
            return self.limit <= value <= self.last
        return value > self.limit if self.largest else value < self.limit

    def demand(self) -> str:
        """What is expected, and why."""
        if self.modulus is not None:
            more = f" plus {self.limit}" if self.limit else ""
            return f"expected no multiple of {self.modulus}{more}: {self.reason}"
        if self.last is not None:
            return f"expected none from {self.limit} to {self.last}: {self.reason}"
        return f"expected at {'most' if self.largest else 'least'} {self.limit}: {self.reason}"

    def scaled(self, size: str, factor: int) -> SizeBound:
        """The same bound of a size that is always this multiple of the bounded one.

        >>> SizeBound("blocks", 1, False, "", 4).scaled("source", 8)
        SizeBound(size='source', limit=8, largest=False, reason='', modulus=32, last=None)
        """
        modulus, last = (None if each is None else factor * each for each in (self.modulus, self.last))
        return SizeBound(size, factor * self.limit, self.largest, self.reason, modulus, last)

    def to_dict(self) -> dict[str, Any]:
        """The bound as JSON-ready values; `SizeBound(**values)` reads it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def tightest(bounds: Iterable[SizeBound]) -> list[SizeBound]:
    """The bounds without those that follow from another one."""
    kept: dict[Any, SizeBound] = {}
    for bound in bounds:
        excluded = None if bound.one_sided else (bound.modulus, bound.limit, bound.last)
        key = bound.size, bound.largest, excluded
        if key not in kept or bound.excludes(kept[key].limit):
            kept[key] = bound
    return list(kept.values())


def broken(bounds: Iterable[SizeBound], sizes: Mapping[str, int]) -> SizeBound | None:
    """The first bound that the sizes of a call break, if any; sizes without a bound do not matter."""
    return next(
        (bound for bound in bounds if bound.size in sizes and bound.excludes(sizes[bound.size])), None
    )
