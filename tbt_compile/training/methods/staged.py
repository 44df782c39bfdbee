"""TBT in two stages: a ternary student, then a binary one that starts from its weights.

TBT+ is that with what measurements here favour: gradients of weights that are not clipped, a loss on the
teacher's distributions alone, and four times the updates with a quarter of the batch.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.data.batches import Corpus
from tbt_compile.preparation import prepare
from tbt_compile.recipe import Recipe
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.tbt import EQUATIONS, PAPER, TBT
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.stages import distill, load_teacher

FIRST_STAGE = {"1-1-8": "2-2-8", "1-1-1": "2-2-2"}


class StagedMethod(Method):
    """TBT with the staged schedule of BiT (Liu et al. 2022, arXiv:2205.13016).

    BiT lowers the bits in stages, each initialized from the one before. Here the stages are ternary and
    binary, with half of the steps each, and both are distilled from the full-precision teacher. A ternary
    student has one stage. For an existing ternary student, `distill(..., start=...)` runs just the second
    stage.
    """

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """Train a ternary student; a binary one starts from one in the subfolder `ternary`.

        Args:
            teacher, notation, corpus, run: as for `Method.train`.

        Returns:
            The prepared student.
        """
        if notation not in FIRST_STAGE:
            return super().train(teacher, notation, corpus, run)
        recipe, objective, second = self.recipe(notation), self.objective(teacher), run.half(len(corpus))
        ternary = Recipe.parse(FIRST_STAGE[notation], **self.options)

        def from_ternary(original: PreTrainedModel) -> PreTrainedModel:
            first = second.first_stage("ternary")
            distill(original, ternary, corpus, first, objective=objective)
            return prepare(load_teacher(first.folder), recipe)

        note = {"start": FIRST_STAGE[notation]}  # tells this run from a single-stage one in the same folder
        return distill(teacher, recipe, corpus, second, objective=objective, start=from_ternary, note=note)


STAGED = StagedMethod("tbt-staged", "TBT in two stages", PAPER, tuple(FIRST_STAGE), EQUATIONS)
PLUS = StagedMethod(
    "tbt+",
    "TBT+",
    f"{PAPER}; stages of BiT (arXiv:2205.13016); loss and batches by measurement here",
    TBT.notations,
    {"ste": "identity"},
    LossWeights(hidden=0.0),
    updates=4,
)
