"""The paper's tables as printed: their rows and figures, read from `paper.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tbt_compile.errors import ReproduceError, did_you_mean

TEACHER = "teacher"
"""The method of the full-precision row."""
TABLES = ("table1", "table2", "table3", "table4", "figure2", "defaults", "recipes")
"""What `reproduce` can make: the paper's tables, figure 2, and the ablations `defaults` and `recipes`."""
DATA_SETS = {"xsum": "XSUM", "cnn_dailymail": "CNN/DailyMail", "wmt16-ro-en": "WMT16 En-Ro"}
"""The paper's data sets, with their names in the paper."""


@dataclass(frozen=True)
class PaperRow:
    """One row of a table.

    Attributes:
        method: the key of `get_method`, or "teacher".
        title: name of the method in this table.
        notation: E-W-A bits.
        size: of the model, in the table's unit; None if the table has none.
        flops: as a share of full precision; None if the table has none.
        scores: by data set, in the order of the table's columns.
    """

    method: str
    title: str
    notation: str
    size: float | None
    flops: float | None
    scores: Mapping[str, tuple[float, ...]]

    @property
    def name(self) -> str:
        """Method and notation, as in `--rows`."""
        return f"{self.method}-{self.notation}"


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or the rows of a figure.

    Attributes:
        name: one of `TABLES`.
        title: its heading.
        columns: the paper's names of the scores; empty for a figure.
        size_unit: unit of the sizes; None for a table without sizes and FLOPs.
        rows: in the paper's order.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    size_unit: str | None
    rows: tuple[PaperRow, ...]

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets with figures in this table, in the order of their columns."""
        return tuple(name for name in DATA_SETS if any(name in row.scores for row in self.rows))

    @property
    def students(self) -> tuple[PaperRow, ...]:
        """All rows except the teacher's."""
        return tuple(row for row in self.rows if row.method != TEACHER)

    def retention(self, row: PaperRow, data_set: str) -> float | None:
        """A row's share of the teacher's first score; None if the table lacks one of them."""
        teacher = next((other for other in self.rows if other.method == TEACHER), None)
        if teacher is None or data_set not in row.scores or data_set not in teacher.scores:
            return None
        return row.scores[data_set][0] / teacher.scores[data_set][0]


def paper_table(name: str) -> PaperTable:
    """The paper's table called `name`.

    Raises:
        ReproduceError: the table is unknown.

    >>> paper_table("table2").rows[-1].scores
    {'wmt16-ro-en': (17.59,)}
    """
    if name not in _content()["tables"]:
        raise ReproduceError(
            f"unknown table {name!r}: expected one of {', '.join(TABLES)}.{did_you_mean(name, TABLES)}"
        )
    values = _content()["tables"][name]
    rows = tuple(_row(row) for row in values["rows"])
    return PaperTable(name, values["title"], tuple(values["columns"]), values.get("size_unit"), rows)


def source() -> str:
    """The citation of the paper."""
    return str(_content()["source"])


@cache
def _content() -> dict[str, Any]:
    return dict(json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8")))


def _row(values: Mapping[str, Any]) -> PaperRow:
    scores = {name: tuple(values[name]) for name in DATA_SETS if name in values}
    method, title, notation = (str(values[name]) for name in ("method", "title", "notation"))
    return PaperRow(method, title, notation, values.get("size"), values.get("flops"), scores)
