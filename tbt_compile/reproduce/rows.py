"""Rows: the figures of one model, one JSON file each, which a repeated run reads instead of training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.errors import ReproduceError
from tbt_compile.evaluation import evaluate_model
from tbt_compile.progress import Progress
from tbt_compile.reproduce.provenance import provenance
from tbt_compile.reproduce.task import Task
from tbt_compile.storage.atomic_write import make_parents, save_json
from tbt_compile.training import processes

Row = dict[str, Any]
"""The content of a file: "asked" (method, bits, seed, settings, data), "scores", cost and "provenance"."""


def row_path(output: Path, key: str) -> Path:
    """The file of a row."""
    return output / "rows" / f"{key}.json"


def read_row(output: Path, key: str) -> Row | None:
    """The figures of a row; None if there are none."""
    path = row_path(output, key)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def known_seeds(output: Path) -> list[int]:
    """The seeds of all students with figures in the output folder."""
    found = (read_row(output, path.stem) for path in (output / "rows").glob("*-seed*.json"))
    return sorted({row["asked"]["seed"] for row in found if row})


def same_row(output: Path, key: str, asked: dict[str, Any]) -> Row | None:
    """The figures of a row, if they were measured with the same settings.

    Args:
        output: folder of the experiment.
        key: of the row.
        asked: everything that the figures depend on.

    Returns:
        The row; None if there are no figures or they have other settings.
    """
    known = read_row(output, key)
    return known if known is not None and known["asked"] == json.loads(json.dumps(asked)) else None


def make_row(
    output: Path, key: str, asked: dict[str, Any], resume: bool, measure: Callable[[], dict[str, Any]]
) -> Row:
    """Read the figures of a row, or measure and write them.

    Args:
        output: folder of the experiment.
        key: of the row.
        asked: everything that the figures depend on.
        resume: use existing figures; otherwise measure again.
        measure: measures the figures; every process calls it, and the first one writes its result.

    Raises:
        ReproduceError: `resume`, and the file holds figures of a run with other settings.
    """
    asked = json.loads(json.dumps(asked))
    known = read_row(output, key) if resume else None
    if known is not None:
        _require_same(known["asked"], asked, row_path(output, key))
        return known
    start = time.perf_counter()
    figures = measure()
    if processes.is_first():
        make_parents(row_path(output, key))
        whole = {"asked": asked, **figures, "provenance": provenance(time.perf_counter() - start)}
        save_json(row_path(output, key), whole)
    processes.wait()
    found = read_row(output, key)
    assert found is not None, "written above"
    return found


def scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    progress: Progress | None,
    title: str,
) -> dict[str, Any]:
    """Scores on the test pairs, computed by the first process only.

    Args:
        model: its generation config takes the task's settings.
        tokenizer: of the model.
        task: the test pairs and the search.
        progress: called with a description and the share done, from 0 to 1.
        title: of the progress reports.

    Returns:
        The fields of `Evaluation`; empty in the other processes.
    """
    if not processes.is_first():
        return {}
    model.generation_config.update(**task.generation)
    evaluation, _ = evaluate_model(
        model.to(processes.device()),
        tokenizer,
        task.test,
        task.decode,
        progress=progress,
        title=f"{title}: generating",
    )
    model.cpu()
    return evaluation.to_dict()


def _require_same(known: dict[str, Any], asked: dict[str, Any], path: Path) -> None:
    for name in sorted({*known, *asked}):
        if known.get(name) != asked.get(name):
            raise ReproduceError(
                f"{path} holds figures for {name}={known.get(name)!r}, not {asked.get(name)!r}: give the "
                "same settings to resume, another --out, or --no-resume to start over"
            )
