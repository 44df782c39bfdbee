"""Decoder-only models: a prompt and its answer, or several texts, in one row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tbt_compile.data.examples import IGNORED_LABEL
from tbt_compile.training.settings import TrainingError
from tbt_compile.training.tasks.base import Inputs, Stack, Task, is_a

_NAMES = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


class DecoderTask(Task):
    """Batches have `input_ids` and `labels` `[B, T]`, -100 at prompts and padding.

    Rows with padding have an `attention_mask`; rows of several texts have `position_ids` instead, which start
    from 0 with each text. Position t predicts label t + 1. Hidden states and attention maps are compared at
    prompts too, as those of an encoder are at its source.
    """

    kind = "decoder-only"

    def takes(self, model: PreTrainedModel) -> bool:
        """Whether the model continues a text, and has no encoder."""
        return not getattr(model.config, "is_encoder_decoder", False) and is_a(model, _NAMES)

    def with_labels(self, inputs: Inputs) -> dict[str, Any]:
        """Turn the cache off: with one, transformers' masks do not tell the texts of a row apart."""
        return {**inputs, "use_cache": False}

    def without_labels(self, inputs: Inputs, model: PreTrainedModel) -> dict[str, Any]:  # noqa: ARG002
        """Leave the labels out."""
        return {name: value for name, value in self.with_labels(inputs).items() if name != "labels"}

    def scored(self, inputs: Inputs) -> Tensor:
        """Bool `[B, T]`: positions that predict a label; never the last one."""
        return F.pad(inputs["labels"][:, 1:] != IGNORED_LABEL, (0, 1), value=False)

    def tokens(self, inputs: Inputs) -> Tensor:
        """Tokens of prompts and answers; of packed texts those that predict another."""
        mask = inputs.get("attention_mask")
        return self.scored(inputs).sum() if mask is None else mask.sum()

    def logits(self, outputs: Any, inputs: Inputs) -> Tensor:
        """The logits of the positions that predict a label."""
        return outputs.logits[self.scored(inputs)]

    def stacks(self, outputs: Any, inputs: Inputs) -> dict[str, Stack]:
        """The one stack there is."""
        mask = inputs.get("attention_mask")
        kept = self.scored(inputs) if mask is None else mask.bool()
        states, maps = (getattr(outputs, name, None) or () for name in ("hidden_states", "attentions"))
        return {"decoder": Stack(states, maps, kept, kept, causal=True, documents=_documents(inputs))}

    def stack_of(self, module: str) -> str:  # noqa: ARG002
        """The one stack there is."""
        return "decoder"

    def check_batch(self, model: PreTrainedModel, inputs: Inputs) -> None:
        """Refuse a model that reads several texts of a row as one.

        Raises:
            TrainingError: another first text changes the logits of the second.
        """
        if _documents(inputs) is None:
            return
        ids = torch.arange(8, device=model.device)[None] % 4
        other = torch.where(ids.new_tensor(range(8)) < 4, 3 - ids, ids)
        training = model.training
        model.eval()
        with torch.no_grad():
            first, second = (
                model(input_ids=row, position_ids=ids, use_cache=False).logits[:, 4:] for row in (ids, other)
            )
        model.train(training)
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
            raise TrainingError(
                f"{type(model).__name__} reads the texts of a packed block as one: it gives no position ids "
                "to transformers' masks; train it on pairs, or choose another model"
            )


def _documents(inputs: Inputs) -> Tensor | None:
    """A number per text of a row, int64 `[B, T]`; None if rows are one text each."""
    positions = inputs.get("position_ids")
    return None if positions is None or "attention_mask" in inputs else (positions == 0).cumsum(1)
