"""TBT in two stages: a ternary student first, from whose weights the binary one starts."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.data.batches import Corpus
from tbt_compile.preparation import prepare
from tbt_compile.recipe import Recipe
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.tbt import EQUATIONS, PAPER
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.stages import distill, load_teacher

FIRST_STAGE = {"1-1-8": "2-2-8", "1-1-1": "2-2-2"}


class StagedMethod(Method):
    """Liu et al. 2022, BiT (arXiv:2205.13016), take bits away in stages, each from the weights of the last.

    Here the stages are ternary and binary, each with half of the steps, and both students follow the
    full-precision teacher. Where a ternary student is there already, `distill(..., start=...)` is the second
    stage alone.
    """

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """The ternary student is kept in the folder `ternary` below the student's."""
        recipe, objective, second = self.recipe(notation), self.objective(teacher), run.half(len(corpus))
        ternary = Recipe.parse(FIRST_STAGE[notation], **self.options)

        def from_ternary(of: PreTrainedModel) -> PreTrainedModel:
            first = second.first_stage("ternary")
            distill(of, ternary, corpus, first, objective=objective)
            return prepare(load_teacher(first.folder), recipe)

        note = {"start": FIRST_STAGE[notation]}  # or a plain student in the same folder would pass for it
        return distill(teacher, recipe, corpus, second, objective=objective, start=from_ternary, note=note)


STAGED = StagedMethod("tbt-staged", "TBT in two stages", PAPER, tuple(FIRST_STAGE), EQUATIONS)
