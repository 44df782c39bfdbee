"""The whole demo on a very small scale: every stage, killed once on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tbt_compile.demo import DemoResult, DemoSettings, run
from tbt_compile.demo.run import result_to_dict
from tbt_compile.training import ModelSize, TrainingError, TrainSettings
from tbt_compile.training.record import read_record
from tbt_compile.training.stages import fingerprint, load_teacher

SETTINGS = DemoSettings(
    train_items=150,
    test_items=6,
    size=ModelSize(width=32, layers=1, heads=2, inner=64),
    teacher=TrainSettings(steps=4, batch_size=16, save_every=2),
    students=(
        ("2-2-2", TrainSettings(steps=1, batch_size=16)),
        ("1-1-1", TrainSettings(steps=4, batch_size=16, save_every=2)),
    ),
    num_threads=1,
)


class Killed(BaseException):
    """Stands for a kill in the middle of the student's training."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult, list[tuple[str, float]]]:
    output = tmp_path_factory.mktemp("demo")

    def kill(text: str, share: float) -> None:
        if text.startswith("student 1-1-1: step 3"):
            raise Killed

    with pytest.raises(Killed):
        run(output, progress=kill, settings=SETTINGS)
    reports: list[tuple[str, float]] = []
    result = run(output, progress=lambda text, share: reports.append((text, share)), settings=SETTINGS)
    return output, result, reports


def test_every_row_is_there_with_every_figure(demo: tuple[Path, DemoResult, object]) -> None:
    output, result, _ = demo
    assert [(row.name, row.engine) for row in result.rows] == [
        ("teacher", "torch"),
        ("2-2-2", "torch"),
        ("2-2-2", "compiled"),
        ("1-1-1", "torch"),
        ("1-1-1", "compiled"),
    ]
    teacher = result.rows[0]
    for eager, compiled in (result.rows[1:3], result.rows[3:]):
        assert compiled.same_greedy == 1.0
        assert compiled.same_beam == 1.0
        assert eager.same_greedy is None
        assert compiled.rouge1 == eager.rouge1
        assert 0 < compiled.size_mib < teacher.size_mib / 4
        assert compiled.library_mib is not None
    assert all(row.ms_per_sentence > 0 and row.mean_length >= 0 for row in result.rows)
    assert result.lead_copy.rouge1 < 60
    assert json.loads((output / "results.json").read_text()) == result_to_dict(result)


def test_a_killed_demo_goes_on_where_it_was(demo: tuple[Path, object, list[tuple[str, float]]]) -> None:
    texts = [text for text, _ in demo[2]]
    assert not any(text.startswith("teacher: step") for text in texts)
    assert next(text for text in texts if "step" in text).startswith("student 1-1-1: step 3 of 4")


def test_each_student_starts_from_the_one_before(demo: tuple[Path, object, object]) -> None:
    ternary, binary = (read_record(demo[0] / f"student-{recipe}")["asked"] for recipe in ("2-2-2", "1-1-1"))
    assert "start" not in ternary
    assert binary["start"] == fingerprint(load_teacher(demo[0] / "student-2-2-2"))


def test_progress_only_grows(demo: tuple[Path, object, list[tuple[str, float]]]) -> None:
    shares = [share for _, share in demo[2]]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_a_finished_demo_only_reads_its_rows(demo: tuple[Path, DemoResult, object]) -> None:
    output, result, _ = demo
    for folder in ("compiled-1-1-1", "packed-1-1-1", "student-1-1-1", "teacher"):
        assert (output / folder / "tokenizer.json").is_file()
    again = run(output, settings=SETTINGS)
    assert again.rows == result.rows


def test_other_settings_need_another_folder(demo: tuple[Path, DemoResult, object]) -> None:
    with pytest.raises(TrainingError, match="holds a run with train=150, not 151"):
        run(demo[0], settings=replace(SETTINGS, train_items=151))
    with pytest.raises(TrainingError, match="holds a run with settings="):
        run(demo[0], settings=replace(SETTINGS, teacher=replace(SETTINGS.teacher, steps=5)))
