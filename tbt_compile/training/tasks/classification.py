"""Encoders with a head that classifies: texts, images or audio."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from tbt_compile.data.examples import IGNORED_LABEL
from tbt_compile.training.settings import TrainingError
from tbt_compile.training.tasks.base import Inputs, Stack, Task, is_a

_NAMES = frozenset(
    name
    for mapping in (
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    )
    for found in mapping.values()
    for name in ([found] if isinstance(found, str) else found)
)


class ClassificationTask(Task):
    """Batches have `labels`, int64 `[B]`, and an `attention_mask` if rows are padded.

    Every row counts for the teacher's distribution. A label of -100 says that a row has none.
    """

    kind = "classifier"

    def takes(self, model: PreTrainedModel) -> bool:
        """Whether the model has no decoder, and a head for classes."""
        return not getattr(model.config, "is_encoder_decoder", False) and is_a(model, _NAMES)

    def check_model(self, model: PreTrainedModel) -> None:
        """Refuse heads whose outputs are no distribution.

        Raises:
            TrainingError: the model has one output, or labels that do not exclude each other.
        """
        kind = getattr(model.config, "problem_type", None)
        if model.config.num_labels < 2 or kind not in (None, "single_label_classification"):
            raise TrainingError(
                f"{type(model).__name__} has {model.config.num_labels} output(s) and problem type {kind!r}: "
                "distillation expects classes that exclude each other, at least two"
            )

    def without_labels(self, inputs: Inputs, model: PreTrainedModel) -> dict[str, Any]:  # noqa: ARG002
        """Leave the labels out."""
        return {name: value for name, value in inputs.items() if name != "labels"}

    def scored(self, inputs: Inputs) -> Tensor:
        """Bool `[B]`: every row."""
        return torch.ones_like(inputs["labels"], dtype=torch.bool)

    def labelled(self, inputs: Inputs) -> Tensor:
        """Bool `[B]`: rows with a label."""
        return inputs["labels"] != IGNORED_LABEL

    def tokens(self, inputs: Inputs) -> Tensor:
        """Tokens of the texts; images and recordings count as one each."""
        mask = inputs.get("attention_mask")
        return self.scored(inputs).sum() if mask is None else mask.sum()

    def logits(self, outputs: Any, inputs: Inputs) -> Tensor:  # noqa: ARG002
        """The logits `[B, classes]`."""
        logits: Tensor = outputs.logits
        return logits

    def stacks(self, outputs: Any, inputs: Inputs) -> dict[str, Stack]:
        """The encoder. Only texts have a mask for its tokens; patches of images and frames all count."""
        states: Any = getattr(outputs, "hidden_states", None) or ()
        maps: Any = getattr(outputs, "attentions", None) or ()
        labels, mask = inputs["labels"], inputs.get("attention_mask")
        if mask is None or "input_ids" not in inputs:
            length = states[0].shape[1] if states else maps[0].shape[-1]
            mask = torch.ones((len(labels), length), device=labels.device)
        return {"encoder": Stack(states, maps, mask.bool(), mask.bool())}

    def stack_of(self, module: str) -> str:  # noqa: ARG002
        """The one stack there is."""
        return "encoder"
