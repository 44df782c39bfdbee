"""The phases from a teacher to compiled students: distil in stages, freeze, lower."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from study import Phase, Study, half_precision
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.data.examples import Examples
from tbt_compile.errors import LoweringError
from tbt_compile.preparation import load_prepared
from tbt_compile.recipe import Recipe
from tbt_compile.training import LossWeights, distill, train_teacher
from tbt_compile.training.methods.staged import FIRST_STAGE
from tbt_compile.training.record import read_record
from tbt_compile.training.stages import load_teacher

RECIPES = ("2-2-8", "1-1-8", "2-2-2", "1-1-1")
"""In the order of training: a binary student starts from the ternary one with the same activations."""
TEACHER = "teacher"
COMPARED_INPUTS = 8
Write = Callable[[Any, Any], list[int]]
"""From a model and an example to the tokens that it writes greedily."""


def teacher_phase(
    study: Study, model: Callable[[], PreTrainedModel], corpus: Callable[[], Examples]
) -> Phase:
    """Fine-tune the pretrained model.

    Args:
        study: settings.
        model: reads the pretrained model.
        corpus: makes the training examples.
    """

    def work() -> dict[str, Any]:
        preset = study.preset
        run = study.training(TEACHER, preset.teacher_steps, preset.teacher_rate)
        pretrained, examples = model(), corpus()
        with half_precision():
            trained = train_teacher(pretrained, examples, run, callbacks=[study.limit])
        return {"parameters": trained.num_parameters(), **_outcome(study.output / TEACHER)}

    return Phase(TEACHER, work)


def student_phases(
    study: Study, corpus: Callable[[], Examples], weights: LossWeights, recipes: Sequence[str] = RECIPES
) -> list[Phase]:
    """Distil a student per recipe, binary ones from the ternary one of the same activations.

    Args:
        study: settings.
        corpus: makes the training examples.
        weights: of the loss terms.
        recipes: E-W-A bits, each after the one that it starts from.
    """

    def work(recipe: str) -> dict[str, Any]:
        preset, first = study.preset, FIRST_STAGE.get(recipe)
        rate = preset.rate / 2 if Recipe.parse(recipe).activation_bits == 8 else preset.rate
        distill(
            load_teacher(study.output / TEACHER),
            recipe,
            corpus(),
            study.training(_student(recipe), preset.steps, rate),
            objective=weights,
            start=None if first is None else load_teacher(study.output / _student(first)),
            callbacks=[study.limit],
        )
        found = {"starts_from": first or TEACHER, "learning_rate": rate, "loss_weights": weights.to_dict()}
        return {**found, **_outcome(study.output / _student(recipe))}

    return [Phase(recipe, partial(work, recipe)) for recipe in recipes]


def lower_phases(
    study: Study, write: Write, examples: Callable[[], Sequence[Any]], recipes: Sequence[str] = RECIPES
) -> list[Phase]:
    """Freeze and compile each student, and compare what both write.

    Args:
        study: settings.
        write: see `Write`.
        examples: reads what is written for; the first few are compared.
        recipes: of the students.
    """

    def work(recipe: str) -> dict[str, Any]:
        return _lower(study.output, recipe, write, examples()[:COMPARED_INPUTS])

    return [Phase(f"lower-{recipe}", partial(work, recipe)) for recipe in recipes]


def _lower(output: Path, recipe: str, write: Write, examples: Sequence[Any]) -> dict[str, Any]:
    frozen = tbt_compile.freeze(load_prepared(output / _student(recipe)).eval())
    frozen.save(output / "packed" / recipe)
    tbt_compile.lower(frozen, target="host").save(compiled_folder(output, recipe))
    compiled = tbt_compile.load(compiled_folder(output, recipe))
    for number, example in enumerate(examples):
        if write(compiled, example) != write(frozen, example):
            raise LoweringError(f"{recipe}: compiled and frozen model write other tokens for input {number}")
    size = folder_bytes(compiled_folder(output, recipe)) / 2**20
    return {"equal_outputs": len(examples), "mib": size}


def compiled_folder(output: Path, recipe: str) -> Path:
    """The folder of a compiled student."""
    return output / "compiled" / recipe


def folder_bytes(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def with_layers(model: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """A Llama with only some of its layers, in float32.

    Args:
        model: stays as it is.
        indices: of the layers to keep, in order.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(indices)
    smaller = type(model)(config)
    places = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(indices)}
    state = {}
    for name, tensor in model.state_dict().items():
        layer = ".".join(name.split(".")[:3]) + "."
        if layer in places:
            state[places[layer] + name.removeprefix(layer)] = tensor
        elif not name.startswith("model.layers."):
            state[name] = tensor
    smaller.load_state_dict(state)
    smaller.generation_config = copy.deepcopy(model.generation_config)
    return smaller.eval()


def _student(recipe: str) -> str:
    return f"students/{recipe}"


def _outcome(folder: Path) -> dict[str, Any]:
    return {"outcome": read_record(folder).get("outcome")}
