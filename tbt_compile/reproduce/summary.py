"""Mean and standard deviation over seeds of a row's scores and retention."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tbt_compile.reproduce.paper import TEACHER, PaperRow, PaperTable
from tbt_compile.reproduce.rows import Row
from tbt_compile.reproduce.task import Task

SCORES = {"rouge": ("rouge1", "rouge2", "rougeLsum"), "bleu": ("bleu",), "length": ("mean_length",)}
"""Fields of `Evaluation` by kind of table; retention uses the first."""


def kind_of(table: PaperTable, task: Task) -> str:
    """The key of `SCORES` that a table shows: "length", or the metric of the task."""
    return "length" if table.columns == ("length",) else task.metric


@dataclass(frozen=True)
class Spread:
    """A mean and the sample standard deviation; the latter is None for a single value."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and deviation of one or more values.

        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951)
        """
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def text(self, digits: int) -> str:
        """The mean, followed by "±" and the deviation if there is one.

        >>> Spread(2.0, 0.5).text(1), Spread(2.0, None).text(1)
        ('2.0 ± 0.5', '2.0')
        """
        spread = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


def rows_of(row: PaperRow, rows: dict[str, Row]) -> list[Row]:
    """The measured rows of a row of the paper, one per seed."""
    return [
        found
        for found in rows.values()
        if found["asked"]["method"] == row.method
        and (row.method == TEACHER or found["asked"]["notation"] == row.notation)
    ]


def score_of(found: Sequence[Row], name: str) -> Spread:
    """Mean and deviation of a score over seeds."""
    return Spread.of([row["scores"][name] for row in found])


def retention_of(found: Sequence[Row], teacher: Row, name: str) -> Spread | None:
    """Retention: a score as a share of the teacher's.

    Args:
        found: the rows of a student, one per seed.
        teacher: its row.
        name: of the score, a field of `Evaluation`.

    Returns:
        Mean and deviation over seeds; None if the teacher scores 0.
    """
    whole = teacher["scores"][name]
    return Spread.of([row["scores"][name] / whole for row in found]) if whole else None
