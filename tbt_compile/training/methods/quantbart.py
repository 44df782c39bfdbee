"""QuantBart: token-level contrastive distillation and module-wise dynamic scaling."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.training.losses_tokens import ContrastiveTerm
from tbt_compile.training.methods.base import Method
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.terms import Objective


class QuantBartMethod(Method):
    """QuantBart (Tao et al. 2022, arXiv:2203.10705).

    Weights are clipped at a learned factor times their mean magnitude (`ScaledWeightQuantizer`), activations
    have 8 bits. The loss is the soft cross-entropy of the logits plus 0.1 times the contrastive term
    (`ContrastiveTerm`). Negatives are the teacher's other tokens of the same sequence; there is no memory
    bank of earlier representations.
    """

    def objective(self, teacher: PreTrainedModel) -> Objective:  # noqa: ARG002
        """Logits and the contrastive term."""
        return Objective(LossWeights(logits=1.0, hidden=0.0), (ContrastiveTerm(),))


QUANTBART = QuantBartMethod(
    "quantbart",
    "QuantBart",
    "Tao et al. 2022, Compression of Generative Pre-trained Language Models via Quantization "
    "(arXiv:2203.10705)",
    ("8-8-8", "2-2-8"),
    {"weight_method": "scaled"},
)
