"""The two stages of training: a full-precision teacher, then a low-bit student distilled from it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from tbt_compile.adapters.pretrained import load_pretrained
from tbt_compile.data.examples import Examples
from tbt_compile.preparation import load_prepared, prepare
from tbt_compile.recipe import Recipe
from tbt_compile.training.label_trainer import whole_model
from tbt_compile.training.loop import fit
from tbt_compile.training.precision import recorded_precision
from tbt_compile.training.progress import quiet
from tbt_compile.training.record import TrainingRecord, fingerprint
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.tasks import task_of
from tbt_compile.training.teacher_cache import TeacherCache
from tbt_compile.training.terms import Objective
from tbt_compile.training.trainers import (
    DistillationTrainer,
    require_distributions,
    require_same_shape,
)

Start: TypeAlias = PreTrainedModel | Callable[[PreTrainedModel], PreTrainedModel]
"""What initializes a student other than its teacher: a model, or a function that prepares the student."""


def train_teacher(
    model: PreTrainedModel, corpus: Examples, run: TrainingRun, *, callbacks: Sequence[TrainerCallback] = ()
) -> PreTrainedModel:
    """Train a full-precision model on labels and save it, with its tokenizer, in the folder of the run.

    Args:
        model: trained in place.
        corpus: the training examples.
        run: folder, settings, and whether to resume an earlier run there.
        callbacks: further trainer callbacks.

    Returns:
        The model in evaluation mode; a finished run is loaded.

    Raises:
        TrainingError: the folder holds a run with other settings, data or shape.
    """
    model, run = whole_model(model), run.titled("teacher")
    record = TrainingRecord(
        Path(run.folder), {"stage": "teacher", "model": _shape(model), **_common_record(corpus, run)}
    )
    if record.open(run.resume) is not None:
        return load_teacher(run.folder)
    return fit(model, corpus, record, run, callbacks=callbacks)


def distill(
    teacher: PreTrainedModel,
    recipe: str | Recipe,
    corpus: Examples,
    run: TrainingRun,
    *,
    objective: Objective | LossWeights | None = None,
    start: Start | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    cache: TeacherCache | None = None,
    note: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Distil a low-bit student: prepare a copy of the teacher, train it on the teacher's outputs, save it.

    The student starts from the teacher's weights. Its learned scales are initialized from the first batch.

    Args:
        teacher: a model of any kind that `training.tasks` knows.
        recipe: quantization of the student.
        corpus: the training examples.
        run: folder, settings, and whether to resume an earlier run there.
        objective: the loss terms; `LossWeights` for the paper's terms, None for their default weights.
        start: a full-precision model of the teacher's shape that initializes the student instead, such as
            `load_teacher` reads from a student with more bits; or a function from the teacher to the
            prepared student.
        callbacks: further trainer callbacks.
        cache: keeps the teacher's distributions on disk, so that it runs in the first epoch only; the loss
            terms have to be of distributions and labels alone. Other students of the teacher may share it.
        note: JSON-ready values to add to the record; a run is resumed only if they are the same.

    Returns:
        The prepared student, ready for `tbt_compile.freeze` and `lower`.

    Raises:
        TrainingError: the folder holds a run with other settings, the teacher is of no kind that can be
            distilled, or the model to start from has another shape.
        RecipeError: the recipe is not understood.
    """
    teacher, recipe = whole_model(teacher), Recipe.parse(recipe)
    run = run.titled(f"student {recipe}")
    if not isinstance(objective, Objective):
        objective = Objective(objective or LossWeights())
    note = dict(note or {})
    if cache is not None:
        require_distributions(objective)
        note["likeliest"] = cache.k
    if isinstance(start, nn.Module):
        start = whole_model(start)
        require_same_shape(start, teacher, objective.layers)
        note["start"] = fingerprint(start)
    asked = {
        "stage": "student",
        "recipe": recipe.to_dict(),
        "weights": objective.weights.to_dict(),
        **objective.to_dict(),
        **note,
        "model": _shape(teacher),
        "teacher": fingerprint(teacher),
        **_common_record(corpus, run),
    }
    record = TrainingRecord(Path(run.folder), asked)
    if record.open(run.resume) is not None:
        with quiet():
            return load_prepared(run.folder).eval()
    return fit(
        _initial_student(teacher, start, recipe),
        corpus,
        record,
        run,
        trainer_class=DistillationTrainer,
        callbacks=callbacks,
        teacher=teacher,
        objective=objective,
        cache=cache,
    )


def _initial_student(teacher: PreTrainedModel, start: Start | None, recipe: Recipe) -> PreTrainedModel:
    """The student before its first step."""
    if start is None or isinstance(start, PreTrainedModel):
        return prepare(copy.deepcopy(teacher if start is None else start), recipe)
    return start(teacher)


def load_teacher(folder: str | Path) -> PreTrainedModel:
    """Load a full-precision model in evaluation mode; a student is loaded without its quantizers.

    Raises:
        FormatError: the folder cannot be read.
        TrainingError: it holds a model of no kind that can be distilled.
    """
    with quiet():
        model = load_pretrained(folder)
    task_of(model, f"{folder}: the")
    return model


def _common_record(corpus: Examples, run: TrainingRun) -> dict[str, Any]:
    """The part of the record that both stages share: data, settings and precision."""
    return {**corpus.record(), "settings": run.settings.to_dict(), **recorded_precision()}


def _shape(model: PreTrainedModel) -> dict[str, Any]:
    """The sizes of a BART; of other models, which name them otherwise, the shapes of all parameters."""
    names = (
        "vocab_size",
        "d_model",
        "encoder_layers",
        "decoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
    )
    sizes = {name: getattr(model.config, name, None) for name in names}
    if None in sizes.values():
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        sizes["shapes"] = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    return {"class": type(model).__name__, **sizes}
