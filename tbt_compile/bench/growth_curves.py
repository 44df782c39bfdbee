"""Reading the points of `growth.run` as curves: how steep each is, and how steep it may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tbt_compile.bench.growth import WORK

TOLERANCE = 0.15
"""By how much an exponent may be above the expected one before it is named."""


@dataclass(frozen=True)
class Curve:
    """A cost over one kind of work.

    Attributes:
        work: the field of `BenchSettings` that is varied.
        cost: the field of a point: "encoder_ms", "token_ms" or "decoder_ms" (all new tokens together).
        expected: the largest exponent that the algorithm explains: cost ~ work ** exponent.
        reason: why it is not 1.
    """

    work: str
    cost: str
    expected: float = 1.0
    reason: str = ""


CURVES = (
    Curve("source_length", "encoder_ms", 2.0, "attention over the source is quadratic"),
    Curve("source_length", "token_ms"),
    Curve("new_tokens", "decoder_ms"),
    Curve("batch", "encoder_ms"),
    Curve("batch", "token_ms"),
)


@dataclass(frozen=True)
class Step:
    """How a cost grew between two neighbouring points of a curve.

    Attributes:
        exponent: log(cost ratio) / log(work ratio); 1 is proportional.
    """

    name: str
    curve: Curve
    start: int
    stop: int
    exponent: float

    @property
    def steep(self) -> bool:
        """Whether it is more than what is expected."""
        return self.exponent > self.curve.expected + TOLERANCE


def curve_points(result: dict[str, Any], name: str, work: str) -> list[dict[str, Any]]:
    """The measured points of an engine in which only `work` is varied, in its order."""
    base = result["settings"]["base"]
    fixed = [other for other in WORK if other != work]
    found = [
        point
        for point in result["points"]
        if point["name"] == name
        and not point["skipped"]
        and all(point[other] == base[other] for other in fixed)
    ]
    return sorted(found, key=lambda point: point[work])


def names_of(result: dict[str, Any]) -> list[str]:
    """Every engine and recipe that has a point."""
    return list(dict.fromkeys(point["name"] for point in result["points"] if not point["skipped"]))


def steps(result: dict[str, Any]) -> Iterator[Step]:
    """How every curve of every engine grows, from point to point."""
    for name in names_of(result):
        for curve in CURVES:
            points = curve_points(result, name, curve.work)
            for first, second in pairwise(points):
                ratio = second[curve.cost] / first[curve.cost] if first[curve.cost] > 0 else math.nan
                if not ratio > 0:
                    continue
                exponent = math.log(ratio) / math.log(second[curve.work] / first[curve.work])
                yield Step(name, curve, first[curve.work], second[curve.work], exponent)
