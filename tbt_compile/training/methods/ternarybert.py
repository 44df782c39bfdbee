"""TernaryBERT: TWN weights, min-max activations, and layer-wise distillation."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.training.losses_attention import ScoreTerm
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.layers import layer_counts
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.terms import Objective


def layerwise(teacher: PreTrainedModel) -> Objective:
    """TinyBERT's loss: soft cross-entropy of the logits plus layer-wise mean squared errors.

    The errors are those of the hidden states, embeddings included, and of the attention scores (`ScoreTerm`),
    summed over layers.
    """
    # The hidden term averages over all layers and both embeddings; the factor turns it into a sum.
    return Objective(LossWeights(logits=1.0, hidden=float(sum(layer_counts(teacher)) + 2)), (ScoreTerm(),))


class TernaryBertMethod(Method):
    """TernaryBERT, for encoder-decoders (Zhang et al. 2020, arXiv:2009.12812).

    Weights use TWN's approximation (Eq. 1-3 of the TBT paper) per row. 8-bit activations are scaled by their
    range, per token and symmetrically as everywhere in this package. 2-bit activations, with which the TBT
    paper runs the method, use Eq. 1-3 too. The loss is `layerwise`.
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
