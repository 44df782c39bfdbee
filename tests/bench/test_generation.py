"""The generation benchmark: what is measured, what is left out with a reason, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tbt_compile.bench import generation, worker_process
from tbt_compile.bench.engines import ENGINES, engines_for, get_engine, llama_cpp
from tbt_compile.bench.generation import BenchSettings, best_int8_peer
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import SHAPES, get_shape, source_ids
from tbt_compile.bench.worker_process import Worker, WorkerError
from tbt_compile.errors import RecipeError, TargetError, TbtError

OTHER_CPU = "haswell" if platform.machine() == "aarch64" else "cortex-a72"
SMALL = BenchSettings(shape="tiny", recipes=("2-2-2",), source_length=40, new_tokens=6, repeats=2)


class FakeWorker:
    """Takes 100 ms to the first token and 10 ms for each token, and holds 3 MiB."""

    def __init__(self, job: Job) -> None:
        self.size_bytes = 2**20
        self.peak_bytes = 3 * 2**20
        self.load_seconds = 0.5

    def measure(self, count: int) -> tuple[float, float]:
        return 0.09 + 0.01 * count, 0.04 + 0.005 * count

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []
    monkeypatch.setattr(generation, "Worker", FakeWorker)
    monkeypatch.setattr(generation, "build", lambda job: built.append(job.engine))
    monkeypatch.setattr("tbt_compile.bench.engines.ctranslate.available", lambda _job: "")
    return built


def test_figures_follow_from_two_lengths(fake: list[str]) -> None:
    rows = generation.run(SMALL)["rows"]
    engines = engines_for(get_shape("tiny"))
    assert [row["name"] for row in rows] == [*engines[:-1], "tbt 2-2-2"]
    assert fake == engines
    for row in rows:
        assert row["encoder_ms"] == pytest.approx(90)
        assert row["token_ms"] == pytest.approx(10)
        assert row["encoder_cpu_ms"] == pytest.approx(40)
        assert row["token_cpu_ms"] == pytest.approx(5)
        assert row["tokens_per_second"] == pytest.approx(100)
        assert (row["size_mib"], row["peak_mib"]) == (1, 3)
        # In each of 2 turns, 0.1 and 0.16 s until a second has passed.
        assert len(row["samples"]["first_token_s"]) == len(row["samples"]["all_tokens_s"]) == 8


def test_tokens_of_all_texts_count(fake: list[str]) -> None:
    rows = generation.run(BenchSettings(**{**SMALL.__dict__, "batch": 8, "beams": 4}))["rows"]
    assert all(row["token_ms"] == pytest.approx(10) for row in rows)
    assert all(row["tokens_per_second"] == pytest.approx(800) for row in rows)


def test_figures_below_the_noise_are_not_shown_as_figures(
    fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "measure", lambda self, count: (1 - 0.01 * count, 1.0))
    rows = generation.run(SMALL)["rows"]
    assert all("lost in noise" in row["skipped"] for row in rows)
    assert all(row["size_mib"] == 1 for row in rows)
    assert best_int8_peer(rows) is None


def test_progress_goes_from_nothing_to_nearly_all(fake: list[str]) -> None:
    shares: list[float] = []
    generation.run(SMALL, lambda text, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.8 < shares[-1] < 1


def test_a_missing_engine_is_a_row_with_a_reason(fake: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(generation, "Worker", FakeWorker)
    monkeypatch.setattr(generation, "build", lambda job: None)
    find_spec = importlib.util.find_spec
    without = lambda name: None if name == "ctranslate2" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    rows = {row["name"]: row for row in generation.run(SMALL)["rows"]}
    assert "tbt-compile[bench]" in rows["CTranslate2 int8"]["skipped"]
    assert rows["torch fp32"]["skipped"] == ""
    assert best_int8_peer(list(rows.values()))["name"] == "torch int8 dynamic"


def test_the_best_peer_is_the_fastest_8_bit_one() -> None:
    def row(name: str, token_ms: float, skipped: str = "") -> dict[str, Any]:
        return {"name": name, "token_ms": token_ms, "skipped": skipped}

    rows = [
        row("torch fp32", 1),
        row("a int8", 3),
        row("b int8", 2),
        row("c int8", 0, "absent"),
        row("tbt", 0.1),
    ]
    best = best_int8_peer(rows)
    assert best is not None
    assert best["name"] == "b int8"
    assert best_int8_peer(rows[:1]) is None


def test_real_processes_measure_real_models(
    build: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes longest to prepare, and runs in test_engines.py.
    monkeypatch.delitem(ENGINES, "ONNX Runtime int8")
    monkeypatch.setattr(generation, "build", build)
    monkeypatch.setattr(generation, "_TURN_SECONDS", 0.1)
    result = generation.run(BenchSettings(**{**SMALL.__dict__, "recipes": ("1-1-8",), "repeats": 1}))
    json.dumps(result)
    assert result["conditions"]["versions"]["torch"]
    rows = {row["name"]: row for row in result["rows"]}
    for row in rows.values():
        if not row["skipped"]:
            assert row["samples"]["all_tokens_s"][0] > 0
            assert row["peak_mib"] > 10
    assert rows["torch fp32"]["size_mib"] > rows["torch int8 dynamic"]["size_mib"]
    assert rows["tbt 1-1-8"]["peak_mib"] < rows["torch fp32"]["peak_mib"]


def test_a_failing_process_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("tbt", "2-2-2", "tiny", 1, 8, 2, "host", "/nonexistent")
    with pytest.raises(WorkerError, match="measuring tbt 2-2-2 failed"):
        Worker(job)
    broken = Job("tbt", "2-2-2", "no-such-shape", 1, 8, 2, "host", "/nonexistent")
    with pytest.raises(WorkerError, match=r"preparing tbt 2-2-2 failed(.|\n)*unknown shape"):
        worker_process.build(broken)


@pytest.mark.parametrize(
    ("name", "why"), [("SIGKILL", ""), ("SIGILL", "an instruction that fails on this CPU")]
)
def test_a_process_that_is_killed_is_an_error_with_the_signal(
    name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = [sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), signal.{name})"]
    monkeypatch.setattr(worker_process, "_command", lambda _module: dies)
    job = Job("llama.cpp Q8_0", "", "tiny-llama", 1, 8, 2, "host", "/nonexistent")
    with pytest.raises(WorkerError, match=rf"measuring llama.cpp Q8_0 failed: killed by {name}(.|\n)*{why}"):
        Worker(job)
    with pytest.raises(WorkerError, match=rf"preparing llama.cpp Q8_0 failed: killed by {name}"):
        worker_process.build(job)
    llama_cpp.cannot_run.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    reason = llama_cpp.available(job)
    assert f"killed by {name}" in reason
    assert ("without AMX" in reason) == (name == "SIGILL")
    llama_cpp.cannot_run.cache_clear()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"shape": "bart-bse"}, TbtError, "bart-base"),
        ({"recipes": ("2-2-3",)}, RecipeError, "3"),
        ({"threads": 0}, TbtError, "threads must be at least 1"),
        ({"repeats": -1}, TbtError, "repeats must be at least 1"),
        ({"batch": 0}, TbtError, "batch must be at least 1"),
        ({"beams": 0}, TbtError, "beams must be at least 1"),
        ({"lengths": "some"}, TbtError, "known are equal, mixed"),
        ({"lengths": "mixed"}, TbtError, "batch of at least 2"),
        ({"source_length": 257}, TbtError, "256 positions"),
        ({"new_tokens": 256}, TbtError, "256 positions"),
        ({"new_tokens": 1000}, TbtError, "new_tokens 1000 is too long"),
        ({"recipes": (), "peers": False}, TbtError, "nothing to measure"),
        ({"target": "znver9"}, TargetError, "znver5"),
        ({"target": OTHER_CPU}, TargetError, "this machine is"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        generation.run(BenchSettings(**{**SMALL.__dict__, **change}))


def test_every_engine_exists_and_every_source_is_valid() -> None:
    for name in ENGINES:
        engine = get_engine(name)
        assert all(callable(getattr(engine, function)) for function in ("available", "build", "load"))
    for shape in SHAPES.values():
        ids = source_ids(get_shape(shape.name), 100)
        assert len(ids) == 100
        assert ids[-1] == 2
        assert 4 <= min(ids[:-1]) <= max(ids) < shape.vocab_size
