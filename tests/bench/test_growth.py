"""How cost grows: which points are measured, going on from a file, exponents and the plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbt_compile.bench import generation, growth
from tbt_compile.bench.generation import BenchSettings
from tbt_compile.bench.growth import GrowthSettings
from tbt_compile.bench.growth_curves import CURVES, curve_points, names_of, steps
from tbt_compile.bench.growth_plot import plot
from tbt_compile.bench.job import Job
from tbt_compile.errors import TbtError

BASE = BenchSettings(
    shape="tiny", recipes=("1-1-1",), peers=False, source_length=16, new_tokens=4, repeats=1, batch=1
)
SMALL = GrowthSettings(BASE, source_length=(8, 16, 32), new_tokens=(4, 8), batch=(1, 2))


class FakeWorker:
    """The encoder is quadratic in the source and linear in the batch; a token takes 1 ms for each text, but
    three more from the second on."""

    def __init__(self, job: Job) -> None:
        self.job, self.size_bytes, self.peak_bytes, self.load_seconds = job, 2**20, 2**20, 0.5

    def measure(self, count: int) -> tuple[float, float]:
        batch = self.job.batch
        seconds = 1e-3 * (self.job.source_length**2 * batch + count * (batch + 3 * (batch > 1)))
        return seconds, seconds

    def close(self) -> None:
        pass


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(growth, "Worker", FakeWorker)
    monkeypatch.setattr(growth, "build", lambda job: names.append(job.name))
    return names


def work_of(points: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(point["source_length"], point["new_tokens"], point["batch"]) for point in points]


def test_each_is_varied_alone_and_built_once(built: list[str]) -> None:
    shares: list[float] = []
    result = growth.run(SMALL, progress=lambda _text, share: shares.append(share))
    json.dumps(result)
    assert work_of(result["points"]) == [(16, 4, 1), (8, 4, 1), (32, 4, 1), (16, 8, 1), (16, 4, 2)]
    assert built == ["tbt 1-1-1"]
    assert shares == sorted(shares)
    assert 0 == shares[0] < shares[-1] < 1
    point = result["points"][-1]
    assert (point["token_ms"], point["decoder_ms"]) == (pytest.approx(5), pytest.approx(20))
    assert point["tokens_per_second"] == pytest.approx(400)


def test_an_interrupted_run_goes_on(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, measured = tmp_path / "growth.json", FakeWorker.measure

    def interrupted(self: FakeWorker, count: int) -> tuple[float, float]:
        if self.job.source_length == 32:
            raise KeyboardInterrupt
        return measured(self, count)

    monkeypatch.setattr(FakeWorker, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        growth.run(SMALL, file)
    first = json.loads(file.read_text())["points"]
    assert work_of(first) == [(16, 4, 1), (8, 4, 1)]
    monkeypatch.setattr(FakeWorker, "measure", measured)
    more = dataclasses.replace(SMALL, base=dataclasses.replace(BASE, recipes=("1-1-1", "1-1-8")))
    result = growth.run(more, file)
    assert result["points"][:2] == first
    assert len(result["points"]) == 10
    assert json.loads(file.read_text()) == result
    built.clear()
    assert growth.run(more, file) == result
    assert built == []
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_of_something_else_is_refused(built: list[str], tmp_path: Path) -> None:
    file = tmp_path / "growth.json"
    growth.run(SMALL, file)
    for change, word in (({"threads": 2}, "threads"), ({"new_tokens": 5}, "new_tokens")):
        other = dataclasses.replace(SMALL, base=dataclasses.replace(BASE, **change))
        with pytest.raises(TbtError, match=f"another {word}: name another file"):
            growth.run(other, file)
    held = json.loads(file.read_text())
    held["conditions"]["cpu"] = "another"
    file.write_text(json.dumps(held))
    with pytest.raises(TbtError, match="measured with another cpu"):
        growth.run(SMALL, file)
    for text in ("no JSON", "{}", "[]"):
        file.write_text(text)
        with pytest.raises(TbtError, match="was not written by `tbt bench growth`"):
            growth.run(SMALL, file)
    with pytest.raises(TbtError, match="cannot write"):
        growth.run(SMALL, file / "below.json")


def test_exponents_are_named_where_they_are_too_large(built: list[str]) -> None:
    result = growth.run(SMALL)
    found = {
        (step.curve.work, step.curve.cost, step.start, step.stop): (round(step.exponent, 2), step.steep)
        for step in steps(result)
    }
    assert found == {
        ("source_length", "encoder_ms", 8, 16): (2.0, False),
        ("source_length", "encoder_ms", 16, 32): (2.0, False),
        ("source_length", "token_ms", 8, 16): (0.0, False),
        ("source_length", "token_ms", 16, 32): (0.0, False),
        ("new_tokens", "decoder_ms", 4, 8): (1.0, False),
        ("batch", "encoder_ms", 1, 2): (1.0, False),
        ("batch", "token_ms", 1, 2): (2.32, True),
    }
    assert {(curve.work, curve.cost) for curve in CURVES} == {key[:2] for key in found}


def test_skipped_points_are_no_part_of_a_curve_and_are_tried_again(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "growth.json"
    with monkeypatch.context() as noisy:
        noisy.setattr(FakeWorker, "measure", lambda self, count: (1 - 0.01 * count, 1.0))
        lost = growth.run(SMALL, file)
    assert names_of(lost) == list(steps(lost)) == []
    result = growth.run(SMALL, file)
    assert [point[1] for point in work_of(curve_points(result, "tbt 1-1-1", "new_tokens"))] == [4, 8]


def test_what_cannot_be_measured_is_refused_at_once(built: list[str]) -> None:
    with pytest.raises(TbtError, match="source_length 257 is too long"):
        growth.run(dataclasses.replace(SMALL, source_length=(8, 257)))
    assert built == []


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_plot_is_written(built: list[str], tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"growth{ending}"
    plot(growth.run(SMALL), file)
    assert file.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [file]


def test_real_processes_measure_real_models(
    build: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "build", build)
    monkeypatch.setattr(generation, "_TURN_SECONDS", 0.1)
    base = dataclasses.replace(BASE, recipes=("1-1-8",), beams=2)
    result = growth.run(GrowthSettings(base, source_length=(16,), new_tokens=(4,), batch=(3,)))
    assert work_of(result["points"]) == [(16, 4, 1), (16, 4, 3)]
    for point in result["points"]:
        assert point["name"] == "tbt 1-1-8"
        assert point["samples"]["all_tokens_s"][0] > 0
        assert point["peak_mib"] > 10
