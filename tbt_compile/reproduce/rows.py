"""Figures of one model, kept in a file of their own, so that a run that is repeated finds them."""

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
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.training import processes

Row = dict[str, Any]
"""What a file holds: "asked" (method, bits, seed, settings, data), "scores", cost and "provenance"."""


def row_path(output: Path, key: str) -> Path:
    """The file of a row."""
    return output / "rows" / f"{key}.json"


def read_row(output: Path, key: str) -> Row | None:
    """The figures of a row, if they are there."""
    path = row_path(output, key)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def known_seeds(output: Path) -> list[int]:
    """The seeds of all students that have figures there."""
    found = (read_row(output, path.stem) for path in (output / "rows").glob("*-seed*.json"))
    return sorted({row["asked"]["seed"] for row in found if row})


def same_row(output: Path, key: str, asked: dict[str, Any]) -> Row | None:
    """The figures of a row, if they are there and were asked for in the same way."""
    known = read_row(output, key)
    return known if known is not None and known["asked"] == json.loads(json.dumps(asked)) else None


def make_row(
    output: Path, key: str, asked: dict[str, Any], resume: bool, measure: Callable[[], dict[str, Any]]
) -> Row:
    """The figures of a row: read from its file, or measured and written to it.

    Args:
        asked: everything that the figures depend on.
        measure: called by every process where there are several; the first one's figures are written.

    Raises:
        ReproduceError: the file holds figures of a run with other settings.
    """
    asked = json.loads(json.dumps(asked))
    known = read_row(output, key) if resume else None
    if known is not None:
        _require_same(known["asked"], asked, row_path(output, key))
        return known
    start = time.perf_counter()
    figures = measure()
    if processes.is_first():
        row_path(output, key).parent.mkdir(parents=True, exist_ok=True)
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
    """ROUGE, BLEU and lengths on the test pairs; computed by the first process, empty in others."""
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
                f"{path} holds figures for {name}={known.get(name)!r} where {asked.get(name)!r} is asked "
                "for: give the same settings to go on, another --out, or --no-resume to start over"
            )
