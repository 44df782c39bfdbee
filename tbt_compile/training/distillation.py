"""A trainer that teaches a prepared model to follow its full-precision original."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Seq2SeqTrainer

from tbt_compile.training.losses import distillation_terms
from tbt_compile.training.settings import LossWeights, TrainingError


class DistillationTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` with the paper's loss: the teacher's distributions and hidden states are the target.

    Prepare the student as a copy of the teacher (`tbt_compile.prepare(copy.deepcopy(teacher), recipe)`);
    the teacher runs in evaluation mode without gradients. Padding counts in no term.

    Args:
        model: the student. teacher: the model to follow, of the same architecture.
        weights: of the terms of the loss.
        Everything else as for `Seq2SeqTrainer`.

    Raises:
        TrainingError: the models are no encoder-decoders, or do not have the same layers and vocabulary.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        *args: Any,
        weights: LossWeights | None = None,
        **kwargs: Any,
    ) -> None:
        _require_same_shape(model, teacher)
        super().__init__(model, *args, **kwargs)
        self.weights = weights or LossWeights()
        if self.weights.attention:
            teacher.set_attn_implementation("eager")  # the fused ones return no attention maps
        # Run without gradients below, and otherwise left alone: its next student is a copy that has to train.
        self.teacher = teacher.to(self.args.device).eval()
        # The loss below is a mean already: the trainer must divide it by the accumulation steps itself.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (part of the overridden signature)
    ) -> Any:
        """The weighted sum of `distillation_terms` on a batch with `labels` and `attention_mask`."""
        wanted = {
            "output_hidden_states": bool(self.weights.hidden),
            "output_attentions": bool(self.weights.attention),
        }
        outputs = model(**inputs, **wanted)
        with torch.no_grad():
            target = self.teacher(**inputs, **wanted)
        terms = distillation_terms(outputs, target, inputs["labels"], inputs["attention_mask"], self.weights)
        loss = terms.weighted(self.weights)
        return (loss, outputs) if return_outputs else loss


def _require_same_shape(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    for role, model in (("student", student), ("teacher", teacher)):
        if not getattr(model.config, "is_encoder_decoder", False):
            raise TrainingError(
                f"the {role} {type(model).__name__} is no encoder-decoder: distillation expects models "
                "such as BART, T5"
            )
    for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
        ours, theirs = getattr(student.config, name, None), getattr(teacher.config, name, None)
        if ours != theirs:
            raise TrainingError(
                f"student and teacher differ in {name} ({ours} and {theirs}): prepare a copy of the "
                "teacher as student"
            )
