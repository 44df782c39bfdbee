"""The figures of an experiment: the retention of a table's rows, and figure 2."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus
from tbt_compile.inspection.entropy import layer_entropies
from tbt_compile.preparation import load_prepared
from tbt_compile.progress import Progress
from tbt_compile.reproduce import plots
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.find import find_table
from tbt_compile.reproduce.histograms import layer_histograms
from tbt_compile.reproduce.paper import DATA_SETS, TEACHER, PaperTable
from tbt_compile.reproduce.plan import choose_rows
from tbt_compile.reproduce.rows import Row
from tbt_compile.reproduce.summary import SCORES, Spread, kind_of, retention_of, rows_of
from tbt_compile.reproduce.task import Task
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.training.progress import quiet


def retention(
    experiment: Experiment, table: PaperTable, task: Task, rows: dict[str, Row]
) -> tuple[Path, ...]:
    """Plot each row's retention, its share of the teacher's score, as measured and in the paper.

    Args:
        experiment: its output folder gets the plot.
        table: the rows to show; those without figures are left out.
        task: the data, which names the measured series.
        rows: figures by key, the teacher's under "teacher".

    Returns:
        The file, or nothing while no row is done.

    Raises:
        ReproduceError: matplotlib is not installed.
    """
    done = [row for row in table.students if rows_of(row, rows)]
    if not done:
        return ()
    name = SCORES[kind_of(table, task)][0]
    measured = [retention_of(rows_of(row, rows), rows[TEACHER], name) for row in done]
    series = {task.name: measured}
    for data_set in table.data_sets:
        paper = "paper" if data_set == task.data_set else f"paper, {DATA_SETS[data_set]}"
        series[paper] = [_single(table.retention(row, data_set)) for row in done]
    path = experiment.output / f"{table.name}.png"
    groups = [f"{row.title}  {row.notation}" for row in done]
    return (plots.bars(path, table.title, "share of the teacher's score", groups, series),)


def _single(value: float | None) -> Spread | None:
    return None if value is None else Spread(value, None)


def figure2(
    experiment: Experiment, task: Task, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[Path, ...]:
    """Make figure 2 from the students of the first seed: histograms, and the entropy of every linear layer.

    Args:
        experiment: its output folder holds the students and gets the files.
        task: its first test pairs give the activations.
        tokenizer: of the students.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        The files: the values as JSON, the histograms, the entropies.

    Raises:
        ReproduceError: matplotlib is not installed, or the model has no attention in its decoder.
    """
    table = find_table(experiment.table)
    shown: dict[str, Any] = {}
    entropies: dict[str, dict[str, float]] = {}
    for row in choose_rows(table, experiment.rows):
        progress(f"{row.title}: histograms and entropies", 0.5)
        folder = experiment.output / "students" / f"{row.name}-seed{experiment.seeds[0]}"
        with quiet():
            model: Any = load_prepared(folder).eval()
        shown[row.title] = layer_histograms(model, Corpus(task.test, tokenizer, task.lengths))
        entropies[row.title] = layer_entropies(model)
    files = (
        experiment.output / f"{table.name}.json",
        plots.histograms(experiment.output / f"{table.name}.png", table.title, shown),
        plots.lines(
            experiment.output / f"{table.name}-entropy.png",
            "Entropy of the quantized weights, Eq. 7",
            "bits per weight",
            entropies,
            math.log2(3),
        ),
    )
    save_json(files[0], {"histograms": shown, "entropy": entropies})
    return files
