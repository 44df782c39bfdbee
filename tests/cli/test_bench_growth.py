"""`tbt bench growth`: what it asks for, and what it shows of the points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tbt_compile.bench import growth
from tbt_compile.bench.job import Job

ARGUMENTS = ["bench", "growth", "--shape", "tiny", "--recipe", "1-1-1,2-2-2", "--source-lengths", "8,16,32"]
ARGUMENTS += ["--new-tokens", "4,8", "--batches", "1,2", "--base", "16,4,1"]


class FakeWorker:
    """A quadratic encoder, and a token that takes four times as long for two texts as for one."""

    size_bytes = peak_bytes = 2**20
    load_seconds = 0.5

    def __init__(self, job: Job) -> None:
        self.encoder, self.token = job.source_length**2, job.batch**2

    def measure(self, count: int) -> tuple[float, float]:
        return 1e-3 * (self.encoder + self.token * count), 1.0

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(growth, "Worker", FakeWorker)
    monkeypatch.setattr(growth, "build", lambda job: names.append(job.name))
    return names


def test_curves_are_shown_and_a_second_run_only_shows(tbt: Any, built: list[str], tmp_path: Path) -> None:
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    shown = tbt(*ARGUMENTS, "--json", file)
    assert shown.code == 0, shown.err
    assert built == ["tbt 1-1-1", "tbt 2-2-2"]
    assert "8-16: 2.00, 16-32: 2.00" in shown.out
    assert "attention over the source is quadratic" in shown.out
    assert "1-2: 2.00!" in shown.out
    assert "steeper than expected: tbt 2-2-2, token_ms over batch from 1 to 2: 2.00" in shown.out
    assert len(json.loads(file.read_text())["points"]) == 10
    built.clear()
    pytest.importorskip("matplotlib")
    assert tbt(*ARGUMENTS, "--json", file, "--plot", picture).out == shown.out
    assert built == []
    assert picture.stat().st_size > 10_000


def test_points_may_go_to_standard_output(tbt: Any) -> None:
    result = tbt(*ARGUMENTS, "--json", "-").json()
    assert [point["name"] for point in result["points"]] == ["tbt 1-1-1", "tbt 2-2-2"] * 5
    assert result["settings"]["base"]["peers"] is False


def test_engines_that_are_missing_are_named(tbt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbt_compile.bench.engines.compiled.available", lambda _job: "not today")
    shown = tbt(*ARGUMENTS)
    assert "tbt 1-1-1 skipped: not today" in shown.out
    assert "nothing grows faster than expected" in shown.out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--base", "1,2"], "three numbers"),
        (["--batches", "a"], "--batches a: expected comma-separated whole numbers"),
        (["--new-tokens", "4,400"], "new_tokens 400 is too long"),
        (["--recipe", ""], "nothing to measure"),
    ],
)
def test_what_makes_no_sense_is_refused(tbt: Any, built: list[str], wrong: list[str], words: str) -> None:
    refused = tbt(*ARGUMENTS, *wrong)
    assert refused.code == 2
    assert words in refused.err
    assert built == []
