"""Schedules: what they do at which step, and that a resumed run follows them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from training.small import SETTINGS, corpus, model, student
from training.test_resume import Killed, kill_at, require_equal
from transformers import TrainerCallback

from tbt_compile.errors import WriteError
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer
from tbt_compile.quantizers.relaxation import Blend, SoftLevels
from tbt_compile.training import TrainingError, TrainSettings, schedules

ALL = {
    "warm-up": {"quantization_warmup": 0.75},
    "soft": {"soft_weights": 0.75},
    "decay": {"weight_decay": 0.1, "decay_share": 0.75},
    "average": {"average": 0.8},
}


class Seen(TrainerCallback):
    """Records a value of every step."""

    def __init__(self, value: Any) -> None:
        self.value, self.values = value, []

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.values.append(self.value(given["model"], given["optimizer"]))


def relaxations(model: torch.nn.Module, _optimizer: Any) -> set[tuple[str, Any]]:
    return {
        (type(module).__name__, module.relaxation)
        for module in model.modules()
        if isinstance(module, WeightQuantizer | ActivationQuantizer) and module.encoding.planes
    }


def test_a_warm_up_blends_weights_and_activations_and_ends(tmp_path: Path) -> None:
    seen = Seen(relaxations)
    settings = replace(SETTINGS, quantization_warmup=0.5)
    trained = student(tmp_path, settings=settings, callbacks=[seen])
    for step, found in enumerate(seen.values):
        expected = Blend(step / 6) if step < 6 else None
        assert found == {("WeightQuantizer", expected), ("ActivationQuantizer", expected)}
    assert {relaxation for _, relaxation in relaxations(trained, None)} == {None}


def test_soft_weights_harden_evenly_and_activations_are_hard(tmp_path: Path) -> None:
    seen = Seen(relaxations)
    student(tmp_path, settings=replace(SETTINGS, soft_weights=0.5), callbacks=[seen])
    temperatures = []
    for found in seen.values:
        kinds = dict(found)
        assert kinds["ActivationQuantizer"] is None
        temperatures.append(kinds["WeightQuantizer"])
    assert temperatures[6:] == [None] * 6
    assert temperatures[0] == SoftLevels(1.0)
    ratios = [b.temperature / a.temperature for a, b in pairwise(temperatures[:6])]
    assert ratios == pytest.approx([0.01 ** (1 / 6)] * 5)


def test_weight_decay_ends_after_its_share(tmp_path: Path) -> None:
    seen = Seen(lambda _model, optimizer: max(group["weight_decay"] for group in optimizer.param_groups))
    student(tmp_path, settings=replace(SETTINGS, weight_decay=0.1, decay_share=0.5), callbacks=[seen])
    assert seen.values == [0.1] * 6 + [0.0] * 6


def test_the_student_is_the_average_of_its_steps(tmp_path: Path) -> None:
    def state(model: torch.nn.Module, _optimizer: Any) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    seen = Seen(state)
    trained = student(tmp_path, settings=replace(SETTINGS, average=0.8), callbacks=[seen])
    first, *rest = seen.values
    expected = first
    for step in rest:
        expected = {name: 0.8 * expected[name] + 0.2 * step[name] for name in step}
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(trained.get_input_embeddings().weight, rest[-1]["model.shared.weight"])


@pytest.mark.parametrize("options", ALL.values(), ids=ALL.keys())
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    options: dict[str, float], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, **options)
    whole = student(tmp_path / "whole", settings=settings)
    with pytest.raises(Killed):
        student(tmp_path / "killed", settings=settings, progress=kill_at(8))
    torch.manual_seed(99)
    require_equal(whole, student(tmp_path / "killed", settings=settings))
    plain = student(tmp_path / "plain")
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), whole.parameters(), strict=True))


def test_a_checkpoint_without_its_average_is_refused(tmp_path: Path) -> None:
    settings = replace(SETTINGS, average=0.8)
    with pytest.raises(Killed):
        student(tmp_path, settings=settings, progress=kill_at(8))
    (tmp_path / "checkpoints" / "checkpoint-5" / "average.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"has no average.safetensors: .*start over"):
        student(tmp_path, settings=settings)


def test_a_checkpoint_whose_average_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, average=0.8)
    whole = student(tmp_path / "whole", settings=settings)

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if Path(path).parent.name == "checkpoint-10":
            Path(path).write_bytes(b"a part")
            raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
        save_file(tensors, path)

    monkeypatch.setattr(schedules, "save_file", full)
    with pytest.raises(WriteError, match="cannot write .*checkpoints: No space left on device; free some"):
        student(tmp_path / "full", settings=settings)
    monkeypatch.setattr(schedules, "save_file", save_file)
    require_equal(whole, student(tmp_path / "full", settings=settings))


def test_an_average_of_half_precision_moves_as_one_of_float32_does() -> None:
    means = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Linear(4, 4, bias=False).to(dtype)
        average = schedules.Averaged(0.99)
        for step in range(100):
            torch.nn.init.constant_(layer.weight, 1 + step / 128)
            average.on_step_end(None, None, None, model=layer)
        average.on_train_end(None, None, None, model=layer)
        means.append(layer.weight.float())
    torch.testing.assert_close(means[1], means[0], rtol=2**-8, atol=0)
    assert means[0].min() > 1.2


def test_a_relaxed_student_loads_as_it_is_saved(tmp_path: Path) -> None:
    settings = replace(SETTINGS, quantization_warmup=0.5)
    trained = student(tmp_path, settings=settings)
    batch = corpus().collator()([corpus().dataset()[0]])
    with torch.no_grad():
        first = trained(**batch).logits
        assert torch.equal(student(tmp_path, settings=settings)(**batch).logits, first)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", float("nan"), "above zero"),
        ("epochs", float("inf"), "above zero"),
        ("learning_rate", float("nan"), "above zero"),
        ("weight_decay", -1.0, "not negative"),
        ("max_grad_norm", float("nan"), "not negative"),
        ("seed", -1, "0 or more, below 2\\*\\*32"),
        ("seed", 2**32, "0 or more, below 2\\*\\*32"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(TrainingError, match=f"training setting {name}=.*expected .*{expected}"):
        TrainSettings(**{name: value})


@pytest.mark.parametrize("name", ["quantization_warmup", "soft_weights", "average"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(TrainingError, match=f"{name}=.*expected 0 or more, below 1"):
        TrainSettings(**{name: value})


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(TrainingError, match="decay_share=0.0: expected a number above 0, at most 1"):
        TrainSettings(decay_share=0.0)
    with pytest.raises(TrainingError, match="both relax the weights; choose one"):
        TrainSettings(quantization_warmup=0.1, soft_weights=0.1)


def test_records_of_earlier_runs_stay_equal() -> None:
    assert set(TrainSettings().to_dict()) == {
        "epochs", "steps", "batch_size", "learning_rate", "warmup_share", "weight_decay", "max_grad_norm",
        "save_every", "seed",
    }  # fmt: skip
    assert TrainSettings(average=0.9).to_dict()["average"] == 0.9
    assert model().config.vocab_size
