"""The soak of a service: it goes on where it was, tells what grew, and reports wrong answers."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture
def soaking(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import serving_soak

    yield serving_soak
    del sys.modules["serving_soak"]


def test_what_grew_is_told(soaking: Any) -> None:
    row = {"mib": 100.0, "files": 10, "threads": 5}
    assert soaking.grown([row, {**row, "mib": 133.0, "files": 18}]) == []
    assert soaking.grown([row, row, {"mib": 140.0, "files": 19, "threads": 10}]) == [
        "mib 100 -> 140",
        "files 10 -> 19",
        "threads 5 -> 10",
    ]


def test_it_goes_on_where_it_was(soaking: Any, llama_folder: Path, tmp_path: Path) -> None:
    options = Namespace(requests=40, part=20, clients=3, threads=1, json=tmp_path / "soak.jsonl")
    assert soaking.soak(llama_folder, options) == []
    options.requests = 50
    assert soaking.soak(llama_folder, options) == []
    rows = [json.loads(line) for line in options.json.read_text().splitlines()]
    assert [row["requests"] for row in rows] == [20, 40, 50]
    assert all(row["files"] > 0 and row["threads"] > 0 and row["mib"] > 10 for row in rows)


def test_an_answer_that_changes_is_a_problem(soaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = soaking.Traffic.__new__(soaking.Traffic)
    traffic.vocabulary, traffic.longest, traffic.known, traffic.problems = 50, 256, {}, []
    answers = iter(["one", "one", "other"])
    monkeypatch.setattr(soaking, "complete", lambda client, request: next(answers))
    monkeypatch.setattr(soaking.complete, "__name__", "complete")
    traffic.kinds = [soaking.complete]
    monkeypatch.setattr(soaking, "DISTINCT", 1)
    for number in range(3):
        traffic._one(None, number)
    assert traffic.problems == ["complete 0 was answered otherwise before"]
