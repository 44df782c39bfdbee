"""What a method is: a name, where it comes from, the bits it supports, and how a student is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from tbt_compile.data.batches import Corpus
from tbt_compile.errors import MethodError
from tbt_compile.recipe import Recipe
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.stages import distill
from tbt_compile.training.terms import Objective


@dataclass(frozen=True)
class Method:
    """A way to train a low-bit student. This class is a recipe and the weights of the distillation loss;
    others replace `objective`, `start` or `train`.

    Attributes:
        name: what `get_method` finds it by.
        title: its name in the paper's tables.
        citation: authors, year, title.
        notations: the E-W-A notations that it supports.
        options: of the recipe, beyond the bits.
        weights: of the terms of the distillation loss.
    """

    name: str
    title: str
    citation: str
    notations: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: LossWeights = field(default_factory=LossWeights)

    def recipe(self, notation: str) -> Recipe:
        """How the student is quantized.

        Raises:
            MethodError: the method does not support these bits.
        """
        if notation not in self.notations:
            raise MethodError(
                f"method {self.name!r} does not support {notation!r}: expected one of "
                f"{', '.join(self.notations)}"
            )
        return Recipe.parse(notation, **self.options)

    def objective(self, teacher: PreTrainedModel) -> Objective:  # noqa: ARG002
        """What a student of this teacher is trained for."""
        return Objective(self.weights)

    def start(self, recipe: Recipe) -> Callable[[PreTrainedModel], PreTrainedModel] | None:  # noqa: ARG002
        """What makes the prepared student from the teacher; None for a plain copy."""
        return None

    def train_student(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """Train a student of the teacher and save it in the folder of the run.

        An interrupted run goes on from its last checkpoint and ends with the same numbers as one that was
        never interrupted.

        Args:
            teacher: an encoder-decoder.
            notation: E-W-A bits of the student, one of `notations`.
            corpus: what it is trained on.
            run: folder, settings and what to do with an earlier run there.

        Returns:
            The prepared student; a run that is finished is loaded.

        Raises:
            MethodError: the method does not support these bits.
            TrainingError: the folder holds a run with other settings, data or teacher.
        """
        return self.train(teacher, notation, corpus, run.titled(f"{self.title} {notation}"))

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """What `train_student` does with a run that has a title; methods of several stages replace it."""
        recipe = self.recipe(notation)
        return distill(
            teacher, recipe, corpus, run, objective=self.objective(teacher), start=self.start(recipe)
        )
