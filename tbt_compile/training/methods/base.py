"""What a method is: a name, where it comes from, the bits it supports, and how a student is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.errors import MethodError
from tbt_compile.evaluation.generation import Progress
from tbt_compile.recipe import Recipe
from tbt_compile.training.settings import LossWeights, TrainSettings
from tbt_compile.training.stages import distill
from tbt_compile.training.terms import Objective


@dataclass(frozen=True)
class Work:
    """What a student is trained on and how: the arguments of `distill` that all stages of a method share."""

    pairs: Sequence[TextPair]
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    max_source_length: int
    max_target_length: int
    settings: TrainSettings
    resume: bool
    progress: Progress | None

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.settings.total_steps(len(self.pairs))

    @property
    def half(self) -> Work:
        """The same with half of the steps: one of two stages."""
        return replace(self, settings=replace(self.settings, steps=max(1, self.steps // 2)))

    def distill(self, teacher: PreTrainedModel, recipe: Recipe, **further: Any) -> PreTrainedModel:
        """`stages.distill`, with its further arguments."""
        return distill(
            teacher,
            recipe,
            self.pairs,
            self.tokenizer,
            self.folder,
            max_source_length=self.max_source_length,
            max_target_length=self.max_target_length,
            settings=self.settings,
            resume=self.resume,
            progress=self.progress,
            **further,
        )


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
        self,
        teacher: PreTrainedModel,
        notation: str,
        pairs: Sequence[TextPair],
        tokenizer: PreTrainedTokenizerBase,
        folder: str | Path,
        *,
        max_source_length: int,
        max_target_length: int,
        settings: TrainSettings | None = None,
        resume: bool = True,
        progress: Progress | None = None,
        title: str | None = None,
    ) -> PreTrainedModel:
        """Train a student of the teacher (an encoder-decoder) on text pairs and save it in `folder`.

        With `resume`, an interrupted run goes on from its last checkpoint and ends with the same numbers as
        one that was never interrupted; a finished one is loaded.

        Raises:
            MethodError: the method does not support these bits.
            TrainingError: the folder holds a run with other settings, data or teacher.
        """
        work = Work(
            pairs,
            tokenizer,
            Path(folder),
            max_source_length,
            max_target_length,
            settings or TrainSettings(),
            resume,
            progress,
        )
        return self.train(teacher, notation, work, title or f"{self.title} {notation}")

    def train(self, teacher: PreTrainedModel, notation: str, work: Work, title: str) -> PreTrainedModel:
        """What `train_student` does once its arguments are complete."""
        recipe = self.recipe(notation)
        return work.distill(
            teacher, recipe, objective=self.objective(teacher), start=self.start(recipe), title=title
        )
