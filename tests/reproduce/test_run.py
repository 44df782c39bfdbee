"""Whole experiments on a very small model: what is written, and that stopping them changes nothing."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tbt_compile.errors import DataError, MethodError, ReproduceError
from tbt_compile.reproduce import Experiment, reproduce
from tbt_compile.reproduce.estimate import estimate
from tbt_compile.reproduce.task import open_task
from tbt_compile.reproduce.teacher import open_model
from tbt_compile.training.settings import TrainingError

Make = Callable[..., Experiment]
KILLS = 3


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


def figures(report: Any) -> dict[str, Any]:
    """What must not depend on how often a run was stopped: everything but times and where they come from."""
    kept = {}
    for key, row in report.rows.items():
        scores = {name: value for name, value in row["scores"].items() if name != "seconds"}
        loss = row["outcome"]["loss"]
        kept[key] = {**row["asked"], **scores, "loss": loss, "size": row["size_mib"]}
    return kept


def test_a_table_its_rows_and_the_figure_from_the_same_students(experiment: Make) -> None:
    asked = experiment()
    report = reproduce(asked)
    assert list(report.rows) == ["teacher", "twn-2-2-2-seed1", "tbt-2-2-2-seed1"]
    assert [path.name for path in report.files] == ["table3.md", "table3.png"]
    assert all(path.stat().st_size > 500 for path in report.files)
    row = json.loads((asked.output / "rows" / "tbt-2-2-2-seed1.json").read_text())
    assert row["asked"]["training"]["steps"] == row["outcome"]["steps"] == 6
    assert row["asked"]["task"]["test"].startswith("10 pairs, sha256 ")
    assert row["recipe"]["weight_method"] == "stats"
    assert set(row["provenance"]) >= {"commit", "seconds", "device", "processes", "versions", "cpu"}
    assert row["scores"]["sentences"] == 10
    assert 0 < row["relative_flops"] < 0.2 < report.rows["teacher"]["relative_flops"]

    again = reproduce(replace(asked, rows=("tbt-2-2-2",)))
    assert list(again.rows) == ["teacher", "tbt-2-2-2-seed1"]
    table = again.files[0].read_text()
    assert table == report.files[0].read_text(), "rows that were not asked for this time stay in the table"
    assert "Still to be trained" not in table

    steps: list[str] = []
    figure = reproduce(replace(asked, table="figure2"), lambda text, share: steps.append(text))
    assert not any("step" in text for text in steps), "nothing is trained again"
    assert [path.name for path in figure.files] == ["figure2.json", "figure2.png", "figure2-entropy.png"]
    shown = json.loads(figure.files[0].read_text())
    for title in ("Baseline (TWN)", "TBT"):
        panels = shown["histograms"][title]
        assert all(sum(panel["shares"]) == pytest.approx(1.0) for panel in panels.values())
        assert sum(share > 0 for share in panels["quantized activation"]["shares"]) > 1
        assert "model.decoder.layers.0.fc1" in shown["entropy"][title]
    # The non-negative category has no level below zero; the weights of both have one.
    assert shown["histograms"]["TBT"]["quantized activation"]["edges"][0] == 0.0
    assert shown["histograms"]["TBT"]["quantized weight"]["edges"][0] < 0.0


def test_a_run_that_is_killed_now_and_then_gives_the_same_figures(experiment: Make, tmp_path: Path) -> None:
    asked = experiment(rows=("tbt-1-1-1",), table="table3")
    calls = 0

    def count(text: str, share: float) -> None:
        nonlocal calls
        calls += 1

    whole = figures(reproduce(replace(asked, output=tmp_path / "whole"), count))
    moments, kills = random.Random(5), 0
    for attempt in range(KILLS):
        left = moments.randrange(1, calls // KILLS)
        last = attempt == KILLS - 1

        def kill(text: str, share: float, last: bool = last) -> None:
            nonlocal left
            left -= 1
            if "1-1-1 seed 1: step" in text if last else left == 0:
                raise Killed

        try:
            reproduce(asked, kill)
        except Killed:
            kills += 1
    table = (asked.output / "table3.md").read_text()
    assert "Still to be trained: tbt-1-1-1-seed1." in table
    assert kills == KILLS
    assert figures(reproduce(asked)) == whole


def test_a_table_has_the_seeds_of_earlier_calls_and_the_rows_of_others(experiment: Make) -> None:
    asked = experiment(rows=("twn-2-2-2",))
    reproduce(replace(asked, rows=("tbt-2-2-2",), seeds=(2,)))
    row = asked.output / "rows" / "tbt-2-2-2-seed2.json"
    figures_of_another = row.read_bytes()
    row.unlink()

    def finish_another(text: str, share: float) -> None:
        if "TWN" in text:
            row.write_bytes(figures_of_another)

    table = reproduce(asked, finish_another).files[0].read_text()
    assert "seeds 1, 2." in table
    assert "| + Both | 2-2-2 | –" not in table, "written while this call trained"
    alone = reproduce(replace(asked, resume=False)).files[0].read_text()
    assert "seeds 1." in alone
    assert "| + Both | 2-2-2 | –" in alone, "started over"


def test_figures_of_other_settings_are_not_taken_for_these(experiment: Make) -> None:
    asked = experiment(rows=("tbt-1-1-1",), steps=2, teacher_steps=2)
    reproduce(asked)
    with pytest.raises(ReproduceError, match=r"teacher\.json holds figures for task="):
        reproduce(replace(asked, test_sentences=5))


def test_a_fine_tuned_model_is_taken_as_it_is(experiment: Make) -> None:
    report = reproduce(experiment(rows=("tbt-2-2-2",), steps=2, teacher_steps=0))
    assert report.rows["teacher"]["outcome"] is None
    assert not (report.files[0].parent / "teacher").exists()


def test_a_tokenizer_of_another_size_is_not_taken_for_the_one_asked_for(experiment: Make) -> None:
    asked = experiment(config="tiny", vocab_size=300)
    task = open_task(asked)
    model, tokenizer = open_model(asked, task)
    assert model.config.vocab_size == len(tokenizer) == 300
    assert len(open_model(asked, task)[1]) == 300
    with pytest.raises(TrainingError, match="tokenizer holds a run with vocab_size=300, not 320"):
        open_model(replace(asked, vocab_size=320), task)


def test_the_plan_has_every_row_with_its_time(experiment: Make) -> None:
    works = estimate(experiment(seeds=(1, 2)))
    assert [work.name for work in works] == [
        "teacher", "twn-2-2-2-seed1", "tbt-2-2-2-seed1", "twn-2-2-2-seed2", "tbt-2-2-2-seed2",
    ]  # fmt: skip
    assert all(work.steps == 6 and work.seconds > 0 and not work.done for work in works)
    assert not (experiment().output / "rows").exists()
    few, many = estimate(experiment(table="recipes", rows=("tbt-identity-gradient-1-1-1", "tbt+-1-1-1")))[1:]
    assert (few.steps, many.steps) == (6, 24)


def test_requests_that_cannot_be_met(
    experiment: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ReproduceError, match="which data"):
        experiment(dataset="xsum")
    with pytest.raises(ReproduceError, match="metric 'rogue'"):
        experiment(metric="rogue")
    with pytest.raises(ReproduceError, match="--teacher-steps 0 with --config tiny"):
        experiment(config="tiny", teacher_steps=0)
    with pytest.raises(TrainingError, match=r"learning_rate=0\.0: expected a number above zero"):
        experiment(learning_rate=0.0)
    for fields, match in (
        (
            {"table": "recipes", "rows": ("tbt+-1-1-1",), "batch_size": 6},
            "divides batches by 4, and 6 examples",
        ),
        ({"seeds": (1, -1)}, r"seed=-1: expected 0 or more, below 2\*\*32"),
    ):
        for call in (reproduce, estimate):
            with pytest.raises((MethodError, TrainingError), match=match):
                call(experiment(**fields))
        assert not (experiment().output / "teacher").exists()
    for fields in ({"data": "DEMO", "config": "tiny"}, {}):
        with pytest.raises(ReproduceError, match="--vocab-size 300: .* comes with a tokenizer"):
            experiment(vocab_size=300, **fields)
    with pytest.raises(ReproduceError, match=r"model 'no/model' cannot be read .*give a folder"):
        reproduce(experiment(config="no/model"))
    with pytest.raises(DataError, match="unknown data set 'xsun'.* Did you mean xsum"):
        reproduce(experiment(data=None, dataset="xsun"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ReproduceError, match=r"pip install 'tbt-compile\[report\]'"):
        reproduce(experiment())
