"""TBT and TBT+ in two stages: a ternary student, then a binary one that starts from its weights."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.data.batches import Corpus
from tbt_compile.preparation import prepare
from tbt_compile.recipe import Recipe
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.tbt import EQUATIONS, PAPER, PLUS
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.stages import distill, load_teacher

FIRST_STAGE = {"1-1-8": "2-2-8", "1-1-1": "2-2-2"}


class StagedMethod(Method):
    """TBT with the staged schedule of BiT (Liu et al. 2022, arXiv:2205.13016).

    BiT lowers the bits in stages, each initialized from the one before. Here the stages are ternary and
    binary, with half of the steps each, and both are distilled from the full-precision teacher. For an
    existing ternary student, `distill(..., start=...)` runs just the second stage.
    """

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """Train the ternary student in the subfolder `ternary`, then the binary one.

        Args:
            teacher, notation, corpus, run: as for `Method.train`.

        Returns:
            The prepared student.
        """
        recipe, objective, second = self.recipe(notation), self.objective(teacher), run.half(len(corpus))
        ternary = Recipe.parse(FIRST_STAGE[notation], **self.options)

        def from_ternary(original: PreTrainedModel) -> PreTrainedModel:
            first = second.first_stage("ternary")
            distill(original, ternary, corpus, first, objective=objective)
            return prepare(load_teacher(first.folder), recipe)

        note = {"start": FIRST_STAGE[notation]}  # tells this run from a single-stage one in the same folder
        return distill(teacher, recipe, corpus, second, objective=objective, start=from_ternary, note=note)


STAGED = StagedMethod("tbt-staged", "TBT in two stages", PAPER, tuple(FIRST_STAGE), EQUATIONS)
STAGED_PLUS = StagedMethod(
    "tbt+-staged",
    "TBT+ in two stages",
    PLUS.citation,
    tuple(FIRST_STAGE),
    PLUS.options,
    PLUS.weights,
    updates=PLUS.updates,
)
