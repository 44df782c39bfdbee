"""The trainers: one for reference texts, one for students that follow their full-precision original."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Seq2SeqTrainer

from tbt_compile.data.batches import IGNORED_LABEL
from tbt_compile.training import processes
from tbt_compile.training.losses import distillation_terms
from tbt_compile.training.settings import LossWeights, TrainingError
from tbt_compile.training.terms import LayerMap, Objective, Watch


class LabelTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` whose loss is the mean over all tokens of a batch, however many processes share it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # BART takes the number of tokens and ignores it; the trainer would scale the loss as if it did not.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (part of the overridden signature)
    ) -> Any:
        """Cross-entropy with `labels`, whose padding does not count."""
        outputs = model(**inputs)
        loss = outputs.loss * processes.weight(inputs["labels"] != IGNORED_LABEL)
        return (loss, outputs) if return_outputs else loss


class DistillationTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` with the paper's loss: the teacher's distributions and hidden states are the target.

    Prepare the student as a copy of the teacher (`tbt_compile.prepare(copy.deepcopy(teacher), recipe)`);
    the teacher runs in evaluation mode without gradients. Padding counts in no term.

    Args:
        model: the student. teacher: the model to follow, of the same architecture.
        weights: of the terms of the loss.
        objective: in the place of `weights`, when there are further terms, or layers are left out.
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
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        self.objective = objective or Objective(weights or LossWeights())
        require_same_shape(model, teacher, self.objective.layers)
        super().__init__(model, *args, **kwargs)
        self.watch = Watch()
        self.terms = [(term.weight, term.bind(model, teacher, self.watch)) for term in self.objective.terms]
        if self.objective.weights.attention:
            teacher.set_attn_implementation("eager")  # the fused ones return no attention maps
        # Run without gradients below, and otherwise left alone: its next student is a copy that has to train.
        self.teacher = teacher.to(self.args.device).eval()
        # The loss below is a mean already: the trainer must divide it by the accumulation steps itself.
        self.model_accepts_loss_kwargs = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Seq2SeqTrainer`; afterwards nothing watches student and teacher any more."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.watch.stop()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (part of the overridden signature)
    ) -> Any:
        """The weighted sum of `distillation_terms`, and of further terms of the objective.

        The batch has `labels` and `attention_mask`.
        """
        weights = self.objective.weights
        wanted = {
            "output_hidden_states": bool(weights.hidden or self.terms),
            "output_attentions": bool(weights.attention),
        }
        outputs, target = both_outputs(model, self.teacher, inputs, weights, **wanted)
        if self.objective.layers is not None:
            target = self.objective.layers.select(target)
        terms = distillation_terms(outputs, target, inputs["labels"], inputs["attention_mask"], weights)
        loss = terms.weighted(weights)
        for weight, measure in self.terms:
            loss = loss + weight * measure(outputs, target, inputs)
        return (loss, outputs) if return_outputs else loss


def both_outputs(
    student: Any, teacher: Any, inputs: dict[str, Any], weights: LossWeights, **wanted: bool
) -> tuple[Any, Any]:
    """What student and teacher, the latter without gradients, make of one batch with `labels`.

    `wanted` are options of their forward passes, such as `output_hidden_states`.
    """
    read = without_labels(inputs, teacher)
    outputs = student(**(inputs if weights.labels else read), **wanted)
    with torch.no_grad():
        target = teacher(**read, **wanted)
    return outputs, target


def without_labels(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """What a model reads of a batch: given labels too, it works out a loss of its own that nobody uses.

    Models that cannot tell what their decoder reads from the labels (`model` is one of the kind) get those.
    """
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return inputs
    kept = {name: value for name, value in inputs.items() if name != "labels"}
    return {**kept, "decoder_input_ids": shift(labels=inputs["labels"]), "use_cache": False}


def require_same_shape(student: PreTrainedModel, teacher: PreTrainedModel, layers: LayerMap | None) -> None:
    """Refuse a student that cannot follow the teacher: other layers (unless they are mapped) or vocabulary.

    Raises:
        TrainingError: they differ, or one is no encoder-decoder.
    """
    for role, model in (("student", student), ("teacher", teacher)):
        if not getattr(model.config, "is_encoder_decoder", False):
            raise TrainingError(
                f"the {role} {type(model).__name__} is no encoder-decoder: distillation expects models "
                "such as BART, T5"
            )
    names = ("vocab_size", "hidden_size", "num_hidden_layers")
    for name in names if layers is None else names[:2]:
        ours, theirs = getattr(student.config, name, None), getattr(teacher.config, name, None)
        if ours != theirs:
            raise TrainingError(
                f"student and teacher differ in {name} ({ours} and {theirs}): the student starts "
                "from the teacher, or from another student of it"
            )
