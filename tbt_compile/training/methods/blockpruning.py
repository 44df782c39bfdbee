"""BlockPruning: movement pruning of weight blocks, down to the size of a low-bit model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from tbt_compile.codegen.layouts import words_for
from tbt_compile.data.batches import Corpus
from tbt_compile.encoding import Encoding
from tbt_compile.preparation import plan
from tbt_compile.quantizers.pruned import BlockPruner, blocks_of
from tbt_compile.recipe import Recipe
from tbt_compile.training.methods.base import Method
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.stages import distill

WARM_UP, COOL_DOWN = 0.1, 0.3
"""Shares of the steps at the beginning with all blocks, and at the end with the final density."""


@dataclass(frozen=True)
class BlockPruningMethod(Method):
    """Block movement pruning with distillation (Lagunas et al. 2021, arXiv:2109.04838).

    The notation names the low-bit model whose size is matched. The weights that this model would pack,
    embeddings included, are pruned in blocks (`BlockPruner`) until the remaining blocks in fp32 plus one bit
    per block take as many bytes. Every matrix keeps the same share of blocks, those with the highest scores,
    on movement pruning's cubic schedule. The loss is that of the paper's experiments: the teacher's
    distributions at temperature 2, and the labels. Scores have the learning rate of the weights; with Adam,
    their order does not depend on it.

    Attributes:
        block: rows and columns of a block; the paper tries 4 to 32.
    """

    block: int = 8

    def recipe(self, notation: str) -> Recipe:
        """Pruned full precision; the notation only sets the size."""
        super().recipe(notation)
        return Recipe.parse("32-32-32", weight_method="pruned", block=self.block)

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """Train with a pruning schedule that ends at the matched density.

        Args:
            teacher, notation, corpus, run: as for `Method.train`.

        Returns:
            The prepared student.
        """
        recipe = self.recipe(notation)
        density = matched_density(teacher, notation, self.block)
        return distill(
            teacher,
            recipe,
            corpus,
            run,
            objective=self.objective(teacher),
            callbacks=(PruningSchedule(density, run.steps(len(corpus))),),
            note={"size_of": notation, "density": density},
        )


class PruningSchedule(TrainerCallback):
    """Sets the density of every pruner before each step, from the step number."""

    def __init__(self, final: float, steps: int) -> None:
        self.final, self.steps = final, steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Set the density of the step.

        Args:
            args, control: unused.
            state: its `global_step` is the step that begins, from 0.
            kwargs: `model` is the one being trained.
        """
        value = scheduled_density(state.global_step, self.steps, self.final)
        for module in kwargs["model"].modules():
            if isinstance(module, BlockPruner) and "density" in module._buffers:
                module.density.fill_(value)


def scheduled_density(step: int, steps: int, final: float) -> float:
    """The share of blocks kept at a step: the cubic schedule of Zhu and Gupta 2017.

    Args:
        step: from 0.
        steps: of the run.
        final: the share at the end.

    >>> [round(scheduled_density(step, 10, 0.1), 2) for step in (0, 1, 4, 7, 9)]
    [1.0, 1.0, 0.21, 0.1, 0.1]
    """
    begin, end = WARM_UP * steps, (1 - COOL_DOWN) * steps
    if step >= min(end, steps - 1):
        return final
    if step <= begin:
        return 1.0
    return final + (1 - final) * (1 - (step - begin) / (end - begin)) ** 3


def packed_bytes(weight: Tensor, encoding: Encoding) -> int:
    """Bytes of a weight `[N, K]` in a frozen model: packed codes, and a float32 scale per row."""
    rows, columns = weight.shape
    codes = columns if encoding is Encoding.INT8 else 8 * encoding.planes * words_for(columns)
    return rows * (codes + 4)


def matched_density(model: PreTrainedModel, notation: str, block: int) -> float:
    """The share of fp32 blocks, with one bit per block, that takes as many bytes as the packed codes.

    Args:
        model: in full precision.
        notation: E-W-A bits of the low-bit model to match.
        block: rows and columns of a block.

    Returns:
        At most 1.
    """
    weights = {}
    for site in plan(model, notation):
        for operand in site.operands:
            if operand.is_weight:
                weight: Any = model.get_submodule(site.fqn).weight
                weights[id(weight)] = (weight, operand.encoding)
    low = sum(packed_bytes(weight, encoding) for weight, encoding in weights.values())
    blocks = 0
    for weight, _ in weights.values():
        rows, columns = weight.shape
        high, wide = blocks_of(rows, columns, block)
        blocks += high * wide
    return min(1.0, (low - blocks / 8) / (4 * block**2 * blocks))


BLOCKPRUNING = BlockPruningMethod(
    "blockpruning",
    "BlockPruning",
    "Lagunas et al. 2021, Block Pruning For Faster Transformers (arXiv:2109.04838)",
    ("1-1-8", "2-2-8"),
    weights=LossWeights(logits=0.9, labels=0.1, hidden=0.0, temperature=2.0),
)
