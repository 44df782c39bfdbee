"""The two stages of training, each in its own folder: a full-precision teacher, then a low-bit student."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from tbt_compile.data.text_pairs import PairDataset, TextPair, digest
from tbt_compile.evaluation.generation import Progress
from tbt_compile.preparation import load_prepared, prepare
from tbt_compile.recipe import Recipe
from tbt_compile.training.distillation import DistillationTrainer, require_same_shape
from tbt_compile.training.loop import fit
from tbt_compile.training.progress import quiet
from tbt_compile.training.record import TrainingRecord
from tbt_compile.training.settings import LossWeights, TrainSettings
from tbt_compile.training.terms import Objective

Start: TypeAlias = PreTrainedModel | Callable[[PreTrainedModel], PreTrainedModel]
"""Where a student starts, if not from its teacher's weights."""


def train_teacher(
    model: PreTrainedModel,
    pairs: Sequence[TextPair],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    max_source_length: int,
    max_target_length: int,
    settings: TrainSettings | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    title: str = "teacher",
) -> PreTrainedModel:
    """Train a full-precision encoder-decoder on text pairs and save it, with its tokenizer, in `folder`.

    With `resume`, an interrupted run goes on from its last checkpoint, and a finished one is loaded.

    Raises:
        TrainingError: the folder holds a run with other settings, data or shape.
    """
    settings = settings or TrainSettings()
    asked = {
        "stage": "teacher",
        "model": _shape(model),
        **_common(pairs, max_source_length, max_target_length, settings),
    }
    record = TrainingRecord(Path(folder), asked)
    if record.open(resume) is not None:
        return load_teacher(folder)
    dataset = PairDataset(pairs, tokenizer, max_source_length, max_target_length)
    return fit(model, dataset, tokenizer, record, settings, progress=progress, title=title)


def distill(
    teacher: PreTrainedModel,
    recipe: str | Recipe,
    pairs: Sequence[TextPair],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    max_source_length: int,
    max_target_length: int,
    settings: TrainSettings | None = None,
    weights: LossWeights | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    title: str | None = None,
    objective: Objective | None = None,
    start: Start | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    note: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Prepare a copy of the teacher with `recipe`, train it to follow the teacher, and save it in `folder`.

    The student starts from the teacher's weights; its learned scales start from the first batch. `resume`
    as for `train_teacher`. The result is a prepared model, ready for `tbt_compile.freeze` and `lower`.

    Args:
        weights: of the terms of the loss; `objective`, when given, has its own.
        start: a full-precision model of the teacher's shape whose weights the student starts from instead,
            such as `load_teacher` reads from an earlier student with more bits; or a function that makes the
            prepared student from the teacher.
        callbacks: of the trainer. note: what makes this run another one than the same without; it stands in
            the record and has to be JSON-ready.

    Raises:
        TrainingError: the folder holds a run with other settings, the teacher is no encoder-decoder, or the
            model to start from has another shape.
        RecipeError: the recipe is not understood.
    """
    settings, recipe = settings or TrainSettings(), Recipe.parse(recipe)
    objective = objective or Objective(weights or LossWeights())
    note = dict(note or {})
    if isinstance(start, PreTrainedModel):
        require_same_shape(start, teacher, objective.layers)
        note["start"] = fingerprint(start)
    asked = {
        "stage": "student",
        "recipe": recipe.to_dict(),
        "weights": asdict(objective.weights),
        **objective.to_dict(),
        **note,
        "model": _shape(teacher),
        "teacher": fingerprint(teacher),
        **_common(pairs, max_source_length, max_target_length, settings),
    }
    record = TrainingRecord(Path(folder), asked)
    if record.open(resume) is not None:
        with quiet():
            return load_prepared(folder).eval()
    dataset = PairDataset(pairs, tokenizer, max_source_length, max_target_length)
    return fit(
        _untrained(teacher, start, recipe),
        dataset,
        tokenizer,
        record,
        settings,
        trainer_class=DistillationTrainer,
        teacher=teacher,
        objective=objective,
        callbacks=callbacks,
        progress=progress,
        title=title or f"student {recipe}",
    )


def _untrained(teacher: PreTrainedModel, start: Start | None, recipe: Recipe) -> PreTrainedModel:
    """The student before its first step."""
    if start is None or isinstance(start, PreTrainedModel):
        return prepare(copy.deepcopy(teacher if start is None else start), recipe)
    return start(teacher)


def load_teacher(folder: str | Path) -> PreTrainedModel:
    """The full-precision model of a folder, in evaluation mode; of a student's, without its quantizers."""
    with quiet():
        return AutoModelForSeq2SeqLM.from_pretrained(str(folder)).eval()


def _common(
    pairs: Sequence[TextPair], max_source_length: int, max_target_length: int, settings: TrainSettings
) -> dict[str, Any]:
    return {
        "data": digest(pairs),
        "max_source_length": max_source_length,
        "max_target_length": max_target_length,
        "settings": settings.to_dict(),
    }


def fingerprint(model: PreTrainedModel) -> str:
    """A short digest of every weight: a student of another teacher is another run."""
    found = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _shape(model: PreTrainedModel) -> dict[str, Any]:
    names = (
        "vocab_size",
        "d_model",
        "encoder_layers",
        "decoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
    )
    return {"class": type(model).__name__, **{name: getattr(model.config, name, None) for name in names}}
