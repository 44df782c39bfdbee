"""The folder of a training run: what is in it already, and is not ours, stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbt_compile.errors import FormatError
from tbt_compile.training import TrainingError
from tbt_compile.training.record import TrainingRecord


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["checkpoints/checkpoint-5/state", "config.json", "model.safetensors"])
@pytest.mark.parametrize("record", [None, "{}", '{"loss": 1.5}', "not JSON"])
def test_what_no_recorded_run_wrote_is_refused(
    tmp_path: Path, name: str, record: str | None, resume: bool
) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("weeks of training")
    if record is not None:
        (tmp_path / "training.json").write_text(record)
    with pytest.raises(TrainingError, match=f"holds {Path(name).parts[0]}, and no training.json of a run"):
        TrainingRecord(tmp_path, {"steps": 1}).open(resume)
    assert file.read_text() == "weeks of training"
    assert (tmp_path / "training.json").exists() == (record is not None)


@pytest.mark.parametrize("resume", [True, False])
def test_a_recorded_run_goes_on_or_starts_over(tmp_path: Path, resume: bool) -> None:
    record = TrainingRecord(tmp_path / "run", {"steps": 1})
    assert record.open(resume=True) is None
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert record.open(resume) is None
    assert checkpoint.exists() == resume


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("thesis")
    with pytest.raises(FormatError, match="cannot write .*; part of the path is a file"):
        TrainingRecord(tmp_path / "file" / "run", {}).open(resume=True)
