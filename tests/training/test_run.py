"""How a training run is divided and named."""

from __future__ import annotations

from pathlib import Path

from tbt_compile.training import TrainingRun, TrainSettings


def test_a_stage_has_half_of_the_steps_and_a_folder_below() -> None:
    run = TrainingRun("student", TrainSettings(epochs=2.0, batch_size=10), title="TBT 1-1-1")
    assert run.steps(75) == 15
    second = run.half(75)
    assert second.steps(75) == 7
    assert second.folder == run.folder
    first = second.first_stage("ternary")
    assert (first.folder, first.title) == (Path("student") / "ternary", "TBT 1-1-1: ternary")
    assert first.steps(75) == 7
    assert TrainingRun("student", TrainSettings(steps=1)).half(75).steps(75) == 1


def test_a_title_that_was_given_stays() -> None:
    assert TrainingRun("student").titled("student 2-2-2").title == "student 2-2-2"
    assert TrainingRun("student", title="mine").titled("student 2-2-2").title == "mine"
