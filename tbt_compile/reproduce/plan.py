"""The students to train for a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tbt_compile.errors import MethodError, ReproduceError
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.find import find_method
from tbt_compile.reproduce.paper import PaperRow, PaperTable
from tbt_compile.training import TrainSettings


@dataclass(frozen=True)
class PlannedRow:
    """One student to train: a method, its bits and a seed; tables share equal students."""

    method: str
    notation: str
    seed: int

    @property
    def key(self) -> str:
        """The name of its folder and of its file in rows/."""
        return f"{self.method}-{self.notation}-seed{self.seed}"


def choose_rows(table: PaperTable, chosen: Sequence[str] | None) -> tuple[PaperRow, ...]:
    """The student rows of a table whose name ("tbt-2-2-2") matches a pattern ("tbt-*"); None: all.

    Raises:
        ReproduceError: a pattern matches no row.
    """
    names = dict.fromkeys(row.name for row in table.students)
    for pattern in chosen or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ReproduceError(f"no row of {table.name} matches {pattern!r}: it has {', '.join(names)}")
    return tuple(
        row
        for row in table.students
        if chosen is None or any(fnmatchcase(row.name, pattern) for pattern in chosen)
    )


def plan_rows(
    table: PaperTable, seeds: Sequence[int], chosen: Sequence[str] | None = None
) -> list[PlannedRow]:
    """Every student to train, all rows of the first seed before those of the second.

    Args:
        table: its student rows are trained.
        seeds: of the students.
        chosen: patterns of row names; None: all rows.

    Raises:
        ReproduceError: there is no seed, or a pattern matches no row.
        MethodError: a method is unknown or does not support the bits of its row.
    """
    if not seeds:
        raise ReproduceError("no seeds: give at least one")
    rows = choose_rows(table, chosen)
    for row in rows:
        notations = find_method(row.method).notations
        if row.notation not in notations:
            raise MethodError(
                f"method {row.method!r} does not support {row.notation!r}: expected one of "
                f"{', '.join(notations)}"
            )
    planned = (PlannedRow(row.method, row.notation, seed) for seed in seeds for row in rows)
    return list(dict.fromkeys(planned))


def row_settings(experiment: Experiment, row: PlannedRow, examples: int) -> TrainSettings:
    """The settings with which a student is trained.

    Args:
        experiment: its settings, before those of the method.
        row: the student.
        examples: in the training set.

    Raises:
        MethodError, TrainingError: the seed or a size is not to be had.
    """
    settings = experiment.student_training(row.notation, row.seed)
    return find_method(row.method).more_updates(settings, examples)


def check_settings(experiment: Experiment, planned: Sequence[PlannedRow]) -> None:
    """Refuse settings with which a student could not be trained, before the first one is.

    Args:
        experiment: the settings.
        planned: the students.

    Raises:
        MethodError, TrainingError: see `row_settings`.
    """
    for row in planned:
        row_settings(experiment, row, examples=1)
