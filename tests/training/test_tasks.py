"""One trainer for every kind of model: what it learns, resumes, scores and compiles to."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.export import Dim
from training.kinds import KINDS, labelled
from training.small import SETTINGS, tokenizer
from training.test_resume import Killed, kill_at, require_equal
from training.test_trainers import trainer
from transformers import BertConfig, BertForSequenceClassification

import tbt_compile
from tbt_compile.training import (
    LabeledCorpus,
    LabeledText,
    LossWeights,
    TrainingError,
    TrainingRun,
    distill,
    train_teacher,
)

WEIGHTS = LossWeights(logits=1.0, hidden=0.1, attention=1.0, labels=0.1)
SETTING = replace(SETTINGS, steps=24, save_every=10, learning_rate=3e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_resumes_is_scored_and_compiles(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind]
    teacher, examples = made.model(), made.examples()

    def run(folder: str, **options: object) -> torch.nn.Module:
        where = TrainingRun(tmp_path / folder, SETTING, **options)
        return distill(copy.deepcopy(teacher), "2-2-2", examples, where, objective=WEIGHTS)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", progress=kill_at(16))
    student = run("killed")
    require_equal(whole, student)
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "killed")]
    assert records[0]["outcome"]["loss"] == records[1]["outcome"]["loss"]
    assert records[1]["outcome"]["resumed_at"] == 10
    require_equal(whole, run("whole"))  # a finished run is loaded

    dataset = examples.dataset()
    batch = examples.collator()([dataset[row] for row in range(8)])
    untrained = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2")
    with torch.no_grad():
        untrained.train()(**batch)  # the first batch sets the scales
        least, first, last = (
            trainer(model.eval(), teacher, tmp_path, weights=WEIGHTS).compute_loss(model, batch).item()
            for model in (copy.deepcopy(teacher), untrained, student)
        )
    assert last - least < 0.9 * (first - least)
    assert math.isfinite(made.score(student))

    if kind == "llama-text":
        return  # the same model
    frozen, inputs = tbt_compile.freeze(student), made.inputs()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    if teacher.can_generate():
        compiled = tbt_compile.lower(frozen)
        expected = frozen.generate(**inputs, max_new_tokens=6, do_sample=False).numpy()
        np.testing.assert_array_equal(compiled.generate(**arrays, max_new_tokens=6), expected)
    else:
        compiled = tbt_compile.lower(frozen, dynamic_shapes={name: {1: Dim.AUTO} for name in inputs})
        np.testing.assert_array_equal(compiled(**arrays)["logits"], frozen(**inputs)["logits"].numpy())
    assert made.score(compiled) == made.score(frozen)


def test_texts_without_a_class_follow_the_teacher_alone(tmp_path: Path) -> None:
    teacher = KINDS["bert"].model()
    texts = LabeledCorpus([LabeledText(text.text, None) for text in labelled()], tokenizer(), 40)
    run = TrainingRun(tmp_path / "student", replace(SETTINGS, steps=3))
    with pytest.raises(TrainingError, match="no example has a label"):
        distill(teacher, "2-2-2", texts, run, objective=LossWeights(labels=1.0))
    run = replace(run, folder=tmp_path / "other")
    student = distill(teacher, "2-2-2", texts, run, objective=LossWeights())
    assert all(weight.isfinite().all() for weight in student.parameters())


def test_students_of_another_kind_or_with_other_classes_are_refused(tmp_path: Path) -> None:
    teacher = KINDS["bert"].model()
    more = BertForSequenceClassification(BertConfig(**{**teacher.config.to_dict(), "num_labels": 5}))
    with pytest.raises(TrainingError, match=r"differ in num_labels \(5 and 3\)"):
        trainer(more, teacher, tmp_path)
    with pytest.raises(TrainingError, match="two kinds, classifier and decoder-only"):
        trainer(KINDS["llama"].model(), teacher, tmp_path)
    many = BertForSequenceClassification(
        BertConfig(**{**teacher.config.to_dict(), "problem_type": "multi_label_classification"})
    )
    with pytest.raises(TrainingError, match="expects classes that exclude each other"):
        trainer(many, many, tmp_path)


@pytest.mark.parametrize("kind", ["llama", "bert", "whisper"])
def test_teachers_of_every_kind_are_trained_on_labels(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind]
    examples, reports = made.examples(), []
    settings = replace(SETTINGS, steps=40, save_every=10, learning_rate=3e-3)
    run = TrainingRun(tmp_path, settings, progress=lambda text, share: reports.append(text))
    train_teacher(made.model(), examples, run)
    losses = [float(text.split("loss ")[1].split(",")[0]) for text in reports if "loss" in text]
    assert losses[-1] < 0.9 * losses[0]
