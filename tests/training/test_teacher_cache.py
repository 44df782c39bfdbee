"""Cached distributions of a teacher: the same loss, no teacher after the first epoch, safe with kills."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from training.kinds import KINDS
from training.small import SETTINGS
from training.test_resume import Killed, kill_at, require_equal
from training.test_trainers import trainer
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.training import LossWeights, TeacherCache, TrainingError, TrainingRun, distill
from tbt_compile.training.likeliest import Likeliest, cross_entropy, likeliest, reverse_divergence
from tbt_compile.training.soft_labels import reverse_divergence as whole_reverse
from tbt_compile.training.soft_labels import soft_cross_entropy
from tbt_compile.training.teacher_cache import NumberedCollator, checksum

WEIGHTS = LossWeights(logits=1.0, hidden=0.0, reverse=0.5, temperature=2.0)
EPOCHS = replace(SETTINGS, steps=None, epochs=3, save_every=5)  # 60 examples in batches of 8


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_all_tokens_give_the_loss_of_whole_distributions(temperature: float) -> None:
    student, teacher = torch.randn(40, 50, requires_grad=True), 3 * torch.randn(40, 50)
    for cached, whole in ((cross_entropy, soft_cross_entropy), (reverse_divergence, whole_reverse)):
        losses = [
            cached(student, likeliest(teacher, 50, temperature), temperature),
            whole(student, teacher, temperature),
        ]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in losses]
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_few_tokens_and_the_rest_by_hand() -> None:
    student, teacher = torch.randn(3, 6), torch.randn(3, 6)
    kept = likeliest(teacher, 2)
    forward = backward = 0.0
    for row in range(3):
        p, q = (logits[row].softmax(-1).tolist() for logits in (teacher, student))
        best = sorted(range(6), key=lambda token: -p[token])[:2]
        events = [(p[t], q[t]) for t in best]
        events.append((1 - sum(p[t] for t in best), 1 - sum(q[t] for t in best)))
        assert kept.tokens[row].tolist() == best
        assert kept.rest[row].item() == pytest.approx(events[-1][0], rel=1e-4)
        forward -= sum(x * math.log(y) for x, y in events) / 3
        backward += sum(y * math.log(y / x) for x, y in events) / 3
    assert cross_entropy(student, kept).item() == pytest.approx(forward, rel=1e-5)
    assert reverse_divergence(student, kept).item() == pytest.approx(backward, rel=1e-4)


def test_a_teacher_that_is_certain_leaves_nothing() -> None:
    student = torch.zeros(1, 5, requires_grad=True)
    kept = likeliest(torch.tensor([[200.0, 0, 0, 0, 0]]), 2)
    loss = cross_entropy(student, kept) + reverse_divergence(student, kept)
    loss.backward()
    assert math.isfinite(loss.item()) and student.grad.isfinite().all()


def calls(teacher: PreTrainedModel) -> list[int]:
    """A list that gets longer with every forward of this model, and not of its copies."""
    made: list[int] = []
    teacher.register_forward_hook(lambda module, *_: made.append(1) if module is teacher else None)
    return made


@pytest.mark.parametrize("kind", ["llama", "t5", "bert", "whisper"])
def test_cached_losses_are_those_of_the_teacher_and_it_is_not_asked_again(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind]
    teacher, examples = made.model(), made.examples()
    dataset = examples.dataset()
    pupil = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2")
    batch = NumberedCollator(examples.collator())(
        [{**dataset[row], "tbt_examples": row} for row in (3, 0, 5)]
    )
    plain = {name: value for name, value in batch.items() if name != "tbt_examples"}
    with torch.no_grad():
        pupil.train()(**plain)
    pupil.eval()
    asked = calls(teacher)
    options = {"weights": WEIGHTS, "train_dataset": dataset, "data_collator": examples.collator()}
    live = trainer(pupil, teacher, tmp_path, **options).compute_loss(pupil, plain)
    cached = trainer(pupil, teacher, tmp_path, cache=TeacherCache(tmp_path / "logits", 10_000), **options)
    losses = [cached.compute_loss(pupil, batch) for _ in range(2)]
    assert len(asked) == 2  # live, and the first time
    assert losses[0].item() == losses[1].item() == pytest.approx(live.item(), rel=1e-6)
    few = trainer(pupil, teacher, tmp_path, cache=TeacherCache(tmp_path / "few", 2), **options)
    assert few.compute_loss(pupil, batch).item() < live.item() + 1e-6
    again = trainer(pupil, teacher, tmp_path, cache=TeacherCache(tmp_path / "few", 2), **options)
    assert again.compute_loss(pupil, batch).item() == few.compute_loss(pupil, batch).item()
    assert len(asked) == 3
    figures = again.figures()["cache"]
    assert (figures["k"], figures["examples"], figures["bytes_per_prediction"]) == (2, 3, 16)
    assert 0 < figures["rest"] < 1


def test_a_trainer_of_ones_own_numbers_its_examples(tmp_path: Path) -> None:
    teacher = KINDS["t5"].model()
    dataset = KINDS["t5"].examples().dataset()
    rows = datasets.Dataset.from_list([{**dataset[row], "note": "not for the model"} for row in range(16)])
    cache = TeacherCache(tmp_path / "logits", 4)
    options = {"weights": WEIGHTS, "train_dataset": rows, "data_collator": KINDS["t5"].examples().collator()}
    own = trainer(
        tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2"), teacher, tmp_path, cache=cache, **options
    )
    own.args.max_steps = 2
    assert own.train().training_loss > 0
    assert cache.figures()["examples"] == 16


def student(folder: Path, teacher: PreTrainedModel, cache: TeacherCache, **options: Any) -> PreTrainedModel:
    run = TrainingRun(folder, EPOCHS, **options)
    return distill(teacher, "2-2-2", KINDS["llama"].examples(), run, objective=WEIGHTS, cache=cache)


@pytest.mark.parametrize("moment", [3, 12])
def test_a_killed_run_ends_with_the_same_weights(moment: int, tmp_path: Path) -> None:
    teacher = KINDS["llama"].model()
    whole = student(tmp_path / "whole", teacher, TeacherCache(tmp_path / "one", 8))
    asked = calls(teacher)
    with pytest.raises(Killed):
        student(tmp_path / "killed", teacher, TeacherCache(tmp_path / "two", 8), progress=kill_at(moment))
    require_equal(whole, student(tmp_path / "killed", teacher, TeacherCache(tmp_path / "two", 8)))
    seen = len(asked)
    assert seen < 23  # steps; so few examples are sorted by length over all epochs
    outcome = json.loads((tmp_path / "killed" / "training.json").read_text())["outcome"]
    assert outcome["cache"]["examples"] == 60
    # Another student of the teacher needs it no more.
    student(tmp_path / "second", teacher, TeacherCache(tmp_path / "two", 8))
    assert len(asked) == seen


def test_a_file_that_lost_its_end_is_filled_again(tmp_path: Path) -> None:
    teacher = KINDS["llama"].model()
    whole = student(tmp_path / "whole", teacher, TeacherCache(tmp_path / "cache", 8))
    file = tmp_path / "cache" / "distributions-1.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    shutil.rmtree(tmp_path / "whole")
    again = student(tmp_path / "whole", teacher, TeacherCache(tmp_path / "cache", 8))
    for name, weight in again.state_dict().items():
        torch.testing.assert_close(weight, whole.state_dict()[name], rtol=1e-2, atol=1e-3)


def test_distributions_of_something_else_are_refused(tmp_path: Path) -> None:
    teacher, cache = KINDS["llama"].model(), tmp_path / "cache"
    student(tmp_path / "first", teacher, TeacherCache(cache, 8))
    with pytest.raises(TrainingError, match="distributions with k=8, not 9: remove it"):
        student(tmp_path / "second", teacher, TeacherCache(cache, 9))
    with torch.no_grad():
        teacher.lm_head.weight[5] += 1.0
    with pytest.raises(TrainingError, match="distributions with teacher="):
        student(tmp_path / "third", teacher, TeacherCache(cache, 8))


def test_another_example_under_the_same_number_is_refused(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, 2)
    cache.open({}, vocabulary=9, examples=3)
    found = Likeliest(torch.tensor([[1, 2]]), torch.tensor([[-1.0, -2.0]]), torch.tensor([0.5]))
    row = {"labels": [1], "input_ids": [3, 4]}
    numbers = torch.tensor([[2, checksum(row)]])
    assert torch.equal(cache.of(numbers, torch.tensor([1]), lambda: found).tokens, found.tokens)
    other = torch.tensor([[2, checksum({**row, "input_ids": [4, 3]})]])
    with pytest.raises(TrainingError, match="example 2 is not the one"):
        cache.of(other, torch.tensor([1]), lambda: found)


@pytest.mark.parametrize("options", [{}, {"hidden": 0.0, "relations": 1.0}, {"logits": 0.0, "labels": 1.0}])
def test_what_needs_more_than_distributions_is_refused_at_once(options: Any, tmp_path: Path) -> None:
    run = TrainingRun(tmp_path / "run", SETTINGS)
    teacher, weights = KINDS["llama"].model(), LossWeights(**options)
    with pytest.raises(TrainingError, match="a cache holds the teacher's distributions, and a loss term"):
        distill(
            teacher, "2-2-2", KINDS["llama"].examples(), run, objective=weights, cache=TeacherCache(tmp_path)
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cache.json", b"", "cache.json is damaged"),
        ("cache.json", b"[1]", "cache.json is damaged .a list"),
        ("index.npy", None, "index.npy is damaged"),
        ("index.npy", b"\x93NUMPY", "index.npy is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    TeacherCache(tmp_path, 4).open({"teacher": "x"}, 10, 3)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=f"{message}.*remove the folder"):
        TeacherCache(tmp_path, 4).open({"teacher": "x"}, 10, 3)


def test_an_index_of_other_examples_is_refused(tmp_path: Path) -> None:
    TeacherCache(tmp_path, 4).open({"teacher": "x"}, 10, 3)
    np.save(tmp_path / "index.npy", np.zeros((2, 5), np.int64))
    with pytest.raises(TrainingError, match="index.npy is damaged .an array"):
        TeacherCache(tmp_path, 4).open({"teacher": "x"}, 10, 3)
