"""DQ-BART: joint distillation and quantization, also into a student with fewer layers."""

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
    """DQ-BART (Li et al. 2022, arXiv:2203.11239).

    2-bit weights use TWN's approximation (Eq. 1-3 of the TBT paper); 8-bit weights and activations are
    scaled by their range. The loss is the cross-entropy with the labels plus the mean squared errors of the
    logits, of the hidden states and of the attention maps, the latter two summed over layers. A student with
    fewer layers is initialized from, and supervised by, evenly spaced layers of the teacher; a single layer
    by the last.

    Attributes:
        encoder_layers, decoder_layers: of the student; None: as many as the teacher has.
    """

    encoder_layers: int | None = None
    decoder_layers: int | None = None

    def objective(self, teacher: PreTrainedModel) -> Objective:
        """Labels, logits, hidden states and attention maps, summed over the student's layers."""
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
        """A function that makes the shallower student; None without one."""
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
    """DQ-BART with a student of the given numbers of layers; None: the teacher's."""
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
