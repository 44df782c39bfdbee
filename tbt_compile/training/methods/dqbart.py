"""DQ-BART: joint distillation and quantization, also of a student with fewer layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from tbt_compile.preparation import prepare
from tbt_compile.recipe import Recipe
from tbt_compile.training.losses_tokens import LogitsTerm
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.layers import layer_counts, layer_map, reduced_copy
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.terms import LayerMap, Objective

CITATION = (
    "Li et al. 2022, DQ-BART: Efficient Sequence-to-Sequence Model via Joint Distillation and Quantization "
    "(arXiv:2203.11239)"
)


@dataclass(frozen=True)
class DqBartMethod(Method):
    """Li et al. 2022 (arXiv:2203.11239).

    Weights by TWN's approximation at 2 bits and by their range at 8, activations at 8 bits by their range.
    The loss is the cross-entropy of the labels, the mean squared error of the logits, and those of hidden
    states and of attention maps, summed over layers. A student with fewer layers starts from evenly spread
    layers of the teacher (one layer: from the last) and follows those.

    Attributes:
        encoder_layers, decoder_layers: of the student; None for as many as the teacher has.
    """

    encoder_layers: int | None = None
    decoder_layers: int | None = None

    def objective(self, teacher: PreTrainedModel) -> Objective:
        """All terms, summed over the student's layers."""
        layers = self._layers(teacher)
        encoder, decoder = (len(layers.encoder), len(layers.decoder)) if layers else layer_counts(teacher)
        weights = LossWeights(
            logits=0.0,
            labels=1.0,
            hidden=float(encoder + decoder + 2),
            attention=float(encoder + 2 * decoder),
        )
        return Objective(weights, (LogitsTerm(),), layers)

    def start(self, recipe: Recipe) -> Callable[[PreTrainedModel], PreTrainedModel] | None:
        """The shallower student, where there is one."""
        if self.encoder_layers is None:
            return None

        def make(teacher: PreTrainedModel) -> PreTrainedModel:
            layers = self._layers(teacher)
            assert layers is not None
            return prepare(reduced_copy(teacher, layers), recipe)

        return make

    def _layers(self, teacher: PreTrainedModel) -> LayerMap | None:
        if self.encoder_layers is None or self.decoder_layers is None:
            return None
        return layer_map(teacher, self.encoder_layers, self.decoder_layers)


def dq_bart(encoder_layers: int | None = None, decoder_layers: int | None = None) -> DqBartMethod:
    """DQ-BART with a student of that many layers, or of all."""
    suffix = "" if encoder_layers is None else f" {encoder_layers}-{decoder_layers}"
    return DqBartMethod(
        "dq-bart" + suffix.replace(" ", "-"),
        "DQ-BART" + suffix,
        CITATION,
        ("8-8-8", "2-2-8"),
        {"weight_method": "l2", "center_weights": False, "ste": "identity"},
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
    )
