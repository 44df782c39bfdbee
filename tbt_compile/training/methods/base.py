"""`Method`: a named way to train a low-bit student, with its citation, recipe and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
    """A way to train a low-bit student.

    This class covers methods that are a recipe plus loss weights; subclasses override `objective`, `start` or
    `train`.

    Attributes:
        name: the key of `get_method`.
        title: its name in the paper's tables.
        citation: authors, year, title.
        notations: the E-W-A notations that it supports.
        options: recipe options other than the bits.
        weights: of the distillation loss terms.
        settings: of training, in place of those of the run.
    """

    name: str
    title: str
    citation: str
    notations: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: LossWeights = field(default_factory=LossWeights)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, notation: str) -> Recipe:
        """The recipe of the student.

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
        """The loss of a student of this teacher."""
        return Objective(self.weights)

    def start(self, recipe: Recipe) -> Callable[[PreTrainedModel], PreTrainedModel] | None:  # noqa: ARG002
        """A function from the teacher to the prepared student; None for a plain copy."""
        return None

    def train_student(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """Train a student of the teacher and save it in the folder of the run.

        An interrupted run resumes from its last checkpoint and ends with the same numbers as an uninterrupted
        one.

        Args:
            teacher: an encoder-decoder.
            notation: E-W-A bits of the student, one of `notations`.
            corpus: the training pairs.
            run: folder, settings, and whether to resume an earlier run there.

        Returns:
            The prepared student; a finished run is loaded.

        Raises:
            MethodError: the method does not support these bits.
            TrainingError: the folder holds a run with other settings, data or teacher.
        """
        run = replace(run, settings=replace(run.settings, **self.settings))
        return self.train(teacher, notation, corpus, run.titled(f"{self.title} {notation}"))

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """The implementation of `train_student`, which methods of several stages override.

        Args:
            teacher, notation, corpus: as for `train_student`.
            run: as for `train_student`, with a title.

        Returns:
            The prepared student.
        """
        recipe = self.recipe(notation)
        return distill(
            teacher, recipe, corpus, run, objective=self.objective(teacher), start=self.start(recipe)
        )
