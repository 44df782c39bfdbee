"""TernaryBERT: TWN weights, min-max activations, and distillation layer by layer."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.training.losses_attention import ScoreTerm
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.layers import layer_counts
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.terms import Objective


def layerwise(teacher: PreTrainedModel) -> Objective:
    """TinyBERT's loss: soft cross-entropy of the logits, and squared errors summed over layers.

    Those of hidden states, embeddings included, and of attention scores (`ScoreTerm`).
    """
    # The hidden term is a mean over the states of all layers and both embeddings.
    return Objective(LossWeights(logits=1.0, hidden=float(sum(layer_counts(teacher)) + 2)), (ScoreTerm(),))


class TernaryBertMethod(Method):
    """Zhang et al. 2020 (arXiv:2009.12812).

    Weights by TWN's approximation (Eq. 1-3), per row. Activations at 8 bits by their range, per token and
    symmetric as everywhere in this package; at 2 bits, where the TBT paper runs the method, by Eq. 1-3 too.
    Loss: `layerwise`.
    """

    def objective(self, teacher: PreTrainedModel) -> Objective:
        """Logits, hidden states and attention scores."""
        return layerwise(teacher)


TERNARYBERT = TernaryBertMethod(
    "ternarybert",
    "TernaryBERT",
    "Zhang et al. 2020, TernaryBERT: Distillation-aware Ultra-low Bit BERT (arXiv:2009.12812)",
    ("2-2-8", "2-2-2"),
    {
        "weight_method": "l2",
        "center_weights": False,
        "ste": "identity",
        "activation_method": "statistical",
        "center_activations": False,
    },
)
