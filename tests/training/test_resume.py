"""A run that was killed and taken up again ends exactly where an uninterrupted one does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.kinds import KINDS
from training.small import SETTINGS, model, student, teacher
from transformers import AutoModelForCausalLM, PreTrainedModel, modeling_utils

from tbt_compile.errors import TbtError
from tbt_compile.modules import is_prepared
from tbt_compile.preparation import load_prepared
from tbt_compile.recipe import Recipe
from tbt_compile.training import TrainingError, TrainingRun, train_teacher
from tbt_compile.training.precision import matmul_precision


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


def kill_at(step: int) -> Callable[[str, float], None]:
    def progress(text: str, share: float) -> None:
        if f"step {step} of" in text:
            raise Killed

    return progress


def require_equal(first: PreTrainedModel, second: PreTrainedModel) -> None:
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name


@pytest.mark.parametrize("stage", [teacher, student])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    stage: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    whole = stage(tmp_path / "whole")
    with pytest.raises(Killed):
        stage(tmp_path / "killed", progress=kill_at(8))
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-5").is_dir()
    torch.manual_seed(99)  # whatever the new process's random numbers are, they must not matter
    steps: list[str] = []
    resumed = stage(tmp_path / "killed", progress=lambda text, share: steps.append(text))
    assert "step 6 of 12" in steps[0]
    require_equal(whole, resumed)
    record = json.loads((tmp_path / "killed" / "training.json").read_text())
    assert record["outcome"]["resumed_at"] == 5
    whole_record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["outcome"]["loss"] == whole_record["outcome"]["loss"]
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = teacher(tmp_path / "whole")
    with pytest.raises(Killed):
        teacher(tmp_path / "killed", progress=kill_at(12))
    newest = tmp_path / "killed" / "checkpoints" / "checkpoint-10"
    broken = newest.with_name("checkpoint-11")
    shutil.copytree(newest, broken)
    (broken / "trainer_state.json").write_text('{"global_step": 1')
    require_equal(whole, teacher(tmp_path / "killed"))


@pytest.mark.parametrize("stage", [teacher, student])
def test_a_finished_run_is_loaded_and_not_repeated(
    stage: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    trained = stage(tmp_path)
    reports: list[str] = []
    loaded = stage(tmp_path, progress=lambda text, share: reports.append(text))
    assert reports == []
    assert is_prepared(loaded) == is_prepared(trained)
    require_equal(trained, loaded)


def test_starting_over_forgets_the_earlier_run(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        teacher(tmp_path, progress=kill_at(8))
    steps: list[str] = []
    again = teacher(tmp_path, resume=False, progress=lambda text, share: steps.append(text))
    assert "step 1 of 12" in steps[0]
    require_equal(again, teacher(tmp_path))


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    teacher(tmp_path)
    with pytest.raises(
        TrainingError,
        match=r"settings=\{'learning_rate': 0.002\}, not \{'learning_rate': 0.0001\}: .*resume=False",
    ) as caught:
        teacher(tmp_path, settings=replace(SETTINGS, learning_rate=1e-4))
    assert isinstance(caught.value, TbtError)
    with (
        matmul_precision("medium"),
        pytest.raises(TrainingError, match="a run with matmul_precision=None, not 'medium'"),
    ):
        teacher(tmp_path)


def test_another_size_of_any_kind_of_model_is_another_run(tmp_path: Path) -> None:
    kind = KINDS["llama"]
    run = TrainingRun(tmp_path, replace(SETTINGS, steps=1))
    train_teacher(kind.model(), kind.examples(), run)
    config = kind.model().config
    config.intermediate_size *= 2
    with pytest.raises(TrainingError, match="holds a run with model="):
        train_teacher(AutoModelForCausalLM.from_config(config), kind.examples(), run)


def test_a_student_of_another_teacher_is_another_run(tmp_path: Path) -> None:
    student(tmp_path)
    other = model()
    with torch.no_grad():
        other.model.shared.weight[5] += 1.0
    with pytest.raises(TrainingError, match="holds a run with teacher="):
        student(tmp_path, teacher=other)


def test_a_kill_in_the_last_save_over_an_earlier_run_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student(tmp_path, recipe="2-2-2")
    rotated = Recipe.parse("2-2-2", hadamard=("*.out_proj",))
    save = modeling_utils.safe_save_file

    def kill(state: dict[str, Tensor], path: str, **options: dict[str, str]) -> None:
        if Path(path).parent == tmp_path:  # and not a checkpoint
            raise Killed
        save(state, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(modeling_utils, "safe_save_file", kill)
        with pytest.raises(Killed):
            student(tmp_path, recipe=rotated, resume=False)
    assert "hadamard" in (tmp_path / "config.json").read_text()
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_prepared(tmp_path)
    require_equal(student(tmp_path / "whole", recipe=rotated), student(tmp_path, recipe=rotated))
