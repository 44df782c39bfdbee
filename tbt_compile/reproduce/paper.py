"""The paper's own tables, as printed (`paper.json`): which rows they have, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tbt_compile.errors import ReproduceError, did_you_mean

TEACHER = "teacher"
"""Method of the row of the full-precision model."""
TABLES = ("table1", "table2", "table3", "table4", "figure2", "defaults")
"""What can be made: the paper's tables and figure, and a table of our own (`defaults`)."""
DATA_SETS = {"xsum": "XSUM", "cnn_dailymail": "CNN/DailyMail", "wmt16-ro-en": "WMT16 En-Ro"}
"""The paper's data sets, and what it calls them."""


@dataclass(frozen=True)
class PaperRow:
    """One line of a table.

    Attributes:
        method: what `get_method` knows it by, or "teacher". title: its name in this table.
        notation: E-W-A bits. size: in the table's unit. flops: as a share of full precision.
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
        """Method and notation, as `--rows` takes them."""
        return f"{self.method}-{self.notation}"


@dataclass(frozen=True)
class PaperTable:
    """A table, or the rows that a figure needs; `columns` are the paper's names of the scores."""

    name: str
    title: str
    columns: tuple[str, ...]
    size_unit: str | None
    rows: tuple[PaperRow, ...]

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets that the paper has figures for, in the order of their columns."""
        return tuple(name for name in DATA_SETS if any(name in row.scores for row in self.rows))

    @property
    def students(self) -> tuple[PaperRow, ...]:
        """Every row but the teacher's."""
        return tuple(row for row in self.rows if row.method != TEACHER)

    def retention(self, row: PaperRow, data_set: str) -> float | None:
        """Share of the teacher's first score that a row keeps; None where one of them is not in the table."""
        teacher = next((other for other in self.rows if other.method == TEACHER), None)
        if teacher is None or data_set not in row.scores or data_set not in teacher.scores:
            return None
        return row.scores[data_set][0] / teacher.scores[data_set][0]


def paper_table(name: str) -> PaperTable:
    """The paper's table of that name.

    Raises:
        ReproduceError: there is none.

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
    """Where the figures were taken from."""
    return str(_content()["source"])


@cache
def _content() -> dict[str, Any]:
    return dict(json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8")))


def _row(values: Mapping[str, Any]) -> PaperRow:
    scores = {name: tuple(values[name]) for name in DATA_SETS if name in values}
    method, title, notation = (str(values[name]) for name in ("method", "title", "notation"))
    return PaperRow(method, title, notation, values.get("size"), values.get("flops"), scores)
