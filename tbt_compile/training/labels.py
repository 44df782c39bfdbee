"""A trainer that teaches a model the reference texts."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Seq2SeqTrainer

from tbt_compile.data.text_pairs import IGNORED_LABEL
from tbt_compile.training import processes


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
