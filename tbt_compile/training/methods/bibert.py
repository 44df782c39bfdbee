"""BiBERT: Bi-Attention, maximum-entropy binary weights, and direction-matching distillation."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.training.losses_attention import DirectionTerm
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.layers import layer_counts
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.terms import Objective


class BiBertMethod(Method):
    """BiBERT, for encoder-decoders (Qin et al. 2022, arXiv:2203.06390).

    Bi-Linear: a weight is the sign of the zero-mean weight times the row's mean magnitude, an input is its
    sign. Bi-Attention: `bool(Q K^T / sqrt(d))`, 1 where a score is not negative, replaces softmax; this
    threshold maximizes the entropy of binarized attention. The loss is the soft cross-entropy of the logits
    plus the mean squared error of the hidden states and direction matching of Q, K and V (`DirectionTerm`),
    both summed over layers.
    """

    def objective(self, teacher: PreTrainedModel) -> Objective:
        """Logits, hidden states and direction matching."""
        weights = LossWeights(logits=1.0, hidden=float(sum(layer_counts(teacher)) + 2))
        return Objective(weights, (DirectionTerm(),))


BIBERT = BiBertMethod(
    "bibert",
    "BiBERT",
    "Qin et al. 2022, BiBERT: Accurate Fully Binarized BERT (arXiv:2203.06390)",
    ("1-1-1",),
    {
        "weight_method": "sign",
        "ste": "identity",  # theirs clips at |w| = 1, which a transformer's weights do not reach
        "activation_method": "sign",
        "center_activations": False,
        "attention": "bool",
    },
)
