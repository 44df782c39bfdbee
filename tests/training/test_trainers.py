"""What `DistillationTrainer` does with student, teacher and batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import bart, m2m100, marian, mbart, t5
from training.small import PAIRS, SETTINGS, batch_of, corpus, model, student, tokenizer
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, Seq2SeqTrainingArguments

import tbt_compile
from tbt_compile.data.batches import PairCollator
from tbt_compile.modules import is_prepared
from tbt_compile.recipe import Recipe
from tbt_compile.training import DistillationTrainer, LossWeights, TrainingError, new_model
from tbt_compile.training.sizes import ModelSize
from tbt_compile.training.stages import load_teacher
from tbt_compile.training.tasks import task_of


def trainer(
    student: PreTrainedModel, teacher: PreTrainedModel, folder: Path, **options: Any
) -> DistillationTrainer:
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder), report_to="none", dataloader_pin_memory=False, disable_tqdm=True, use_cpu=True
    )
    return DistillationTrainer(student, teacher, arguments, **options)


def test_the_teacher_is_frozen_and_the_student_follows_it(tmp_path: Path) -> None:
    teacher = model()
    before = copy.deepcopy(teacher.state_dict())
    trained = student(tmp_path, teacher=teacher, settings=replace(SETTINGS, steps=30, learning_rate=1e-2))
    assert is_prepared(trained)
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    untrained = tbt_compile.prepare(copy.deepcopy(teacher), "1-1-1")
    with torch.no_grad():
        # What is left when the student is the teacher itself: the entropy of its distributions.
        least, first, last = (
            trainer(pupil.eval(), teacher, tmp_path).compute_loss(pupil, batch_of(4))
            for pupil in (teacher, untrained, trained)
        )
    assert last - least < 0.7 * (first - least)


def test_a_second_student_of_the_same_teacher_trains_all_its_weights(tmp_path: Path) -> None:
    teacher = model()
    trainer(tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2"), teacher, tmp_path)
    second = tbt_compile.prepare(copy.deepcopy(teacher), "1-1-1")
    assert all(parameter.requires_grad for parameter in second.parameters())


def test_a_student_may_start_from_an_earlier_one_with_more_bits(tmp_path: Path) -> None:
    teacher, barely = model(), replace(SETTINGS, steps=1, learning_rate=1e-12)
    student(
        tmp_path / "first", teacher=teacher, recipe="2-2-2", settings=replace(SETTINGS, learning_rate=1e-2)
    )
    first = load_teacher(tmp_path / "first")
    second = student(tmp_path / "second", teacher=teacher, settings=barely, start=first)
    trained = first.state_dict()
    assert all(
        torch.allclose(weight, second.state_dict()[name], atol=1e-9) for name, weight in trained.items()
    )
    assert not torch.equal(trained["model.shared.weight"], teacher.state_dict()["model.shared.weight"])
    assert second.config.quantization_config.recipe == Recipe.parse("1-1-1")
    with pytest.raises(TrainingError, match="holds a run with start="):
        student(tmp_path / "second", teacher=teacher, settings=barely)


def test_a_student_cannot_start_from_another_shape_and_nothing_is_left_behind(tmp_path: Path) -> None:
    wider = new_model(ModelSize(width=32, layers=1, heads=2, inner=32), tokenizer(), max_length=40)
    with pytest.raises(TrainingError, match=r"differ in hidden_size \(32 and 16\).*another student of it"):
        student(tmp_path / "student", start=wider)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("family", [bart, mbart, marian, m2m100, t5])
def test_without_labels_a_model_writes_the_same_and_no_loss_is_worked_out(
    family: Callable[[], PreTrainedModel],
) -> None:
    pupil = family().eval()
    ids = torch.randint(4, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(7) < torch.tensor([[7], [5], [2]]), ids, -100)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with torch.no_grad():
        whole, read = pupil(**inputs), pupil(**task_of(pupil).without_labels(inputs, pupil))
    assert torch.equal(read.logits, whole.logits)
    can_shift = hasattr(pupil, "prepare_decoder_input_ids_from_labels")
    assert (read.loss is None) == can_shift == (family is not m2m100)


def test_the_loss_does_not_depend_on_padding(tmp_path: Path) -> None:
    teacher = model().eval()
    pupil = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2").eval()
    distilling = trainer(pupil, teacher, tmp_path, weights=LossWeights(labels=0.5, attention=1.0))
    short = batch_of(4)
    padded = {
        name: torch.nn.functional.pad(
            tensor, (0, 3), value={"input_ids": 1, "attention_mask": 0}.get(name, -100)
        )
        for name, tensor in short.items()
    }
    with torch.no_grad():
        pupil(**short)  # the first batch sets the scales
        first, second = (distilling.compute_loss(pupil, inputs) for inputs in (short, padded))
    assert second.item() == pytest.approx(first.item(), rel=1e-5)


def test_evaluation_reports_the_same_loss(tmp_path: Path) -> None:
    teacher = model().eval()
    pupil = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2").eval()
    dataset = replace(corpus(), pairs=PAIRS[:4]).dataset()
    distilling = trainer(
        pupil, teacher, tmp_path, eval_dataset=dataset, data_collator=PairCollator(1), weights=LossWeights()
    )
    with torch.no_grad():
        expected = distilling.compute_loss(pupil, batch_of(4)).item()
    assert distilling.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    wider = new_model(ModelSize(width=32, layers=1, heads=2, inner=32), tokenizer(), max_length=40)
    with pytest.raises(TrainingError, match=r"differ in hidden_size \(16 and 32\)"):
        trainer(model(), wider, tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 20}
    other = BertForMaskedLM(BertConfig(**sizes, intermediate_size=16))
    with pytest.raises(TrainingError, match="the student BertForMaskedLM cannot be distilled: expected a"):
        trainer(other, other, tmp_path)
