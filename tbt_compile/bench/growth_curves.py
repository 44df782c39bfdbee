"""Curves through the points of `growth.run`: measured and expected exponents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tbt_compile.bench.growth import WORK

TOLERANCE = 0.15
"""Excess over the expected exponent that is not reported."""


@dataclass(frozen=True)
class Curve:
    """A cost as a function of one kind of work.

    Attributes:
        work: the varied field of `BenchSettings`.
        cost: the field of a point: "encoder_ms", "token_ms" or "decoder_ms" (all new tokens together).
        expected: the largest exponent that the algorithm explains, with cost ~ work ** exponent.
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
    """The growth of a cost between two neighbouring points of a curve.

    Attributes:
        name: of the engine and recipe.
        curve: work and cost.
        start, stop: the work at both points.
        exponent: log(cost ratio) / log(work ratio); 1 is proportional growth.
    """

    name: str
    curve: Curve
    start: int
    stop: int
    exponent: float

    @property
    def steep(self) -> bool:
        """Whether the exponent exceeds the expected one by more than `TOLERANCE`."""
        return self.exponent > self.curve.expected + TOLERANCE


def curve_points(result: dict[str, Any], name: str, work: str) -> list[dict[str, Any]]:
    """The measured points of one curve, ordered by work.

    Args:
        result: of `growth.run`.
        name: of the engine and recipe.
        work: the varied field; the others are those of the base.
    """
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
    """The names of all engines and recipes with a measured point."""
    return list(dict.fromkeys(point["name"] for point in result["points"] if not point["skipped"]))


def steps(result: dict[str, Any]) -> Iterator[Step]:
    """The growth of every curve of every engine, from point to point."""
    for name in names_of(result):
        for curve in CURVES:
            points = curve_points(result, name, curve.work)
            for first, second in pairwise(points):
                ratio = second[curve.cost] / first[curve.cost] if first[curve.cost] > 0 else math.nan
                if not ratio > 0:
                    continue
                exponent = math.log(ratio) / math.log(second[curve.work] / first[curve.work])
                yield Step(name, curve, first[curve.work], second[curve.work], exponent)
