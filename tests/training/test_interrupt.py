"""Ctrl-C saves the step that is being done; what goes on from there ends as an uninterrupted run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from training.small import student, teacher
from training.test_resume import require_equal
from transformers import PreTrainedModel


@pytest.mark.parametrize("stage", [teacher, student])
@pytest.mark.parametrize(("step", "saved"), [(3, 3), (7, 10), (11, 11)])
def test_an_interrupted_run_is_saved_after_the_step_and_ends_as_a_whole_one(
    stage: Callable[..., PreTrainedModel], step: int, saved: int, tmp_path: Path
) -> None:
    whole, reports = stage(tmp_path / "whole"), []

    def interrupt(text: str, share: float) -> None:
        reports.append(text)
        if f"step {step} of" in text:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "stopped", progress=interrupt)
    assert "saving after this step; Ctrl-C again stops at once" in reports
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The last five logged steps are one window, whose mean loss is recorded.
    assert (tmp_path / "stopped" / "checkpoints" / f"checkpoint-{saved}").is_dir()
    require_equal(whole, stage(tmp_path / "stopped"))
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "stopped")]
    assert records[1]["outcome"]["resumed_at"] == saved
    assert records[0]["outcome"]["loss"] == records[1]["outcome"]["loss"]


def test_an_interrupt_in_the_last_step_leaves_a_finished_run(tmp_path: Path) -> None:
    def interrupt(text: str, share: float) -> None:
        if "step 12 of 12" in text:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        teacher(tmp_path, progress=interrupt)
    assert "outcome" in json.loads((tmp_path / "training.json").read_text())


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def interrupt(text: str, share: float) -> None:
        if "step 3 of" in text or "saving" in text:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        teacher(tmp_path, progress=interrupt)
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    seen: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))

    def interrupt(text: str, share: float) -> None:
        if "step 3 of" in text:
            signal.raise_signal(signal.SIGINT)

    try:
        teacher(tmp_path, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert seen == [signal.SIGINT]
