"""Accuracy of classifiers of text, eager or compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from tbt_compile.data.labeled_texts import LabeledText, encode, padded
from tbt_compile.errors import DataError
from tbt_compile.evaluation.generation import runner
from tbt_compile.progress import Progress


@dataclass(frozen=True)
class Accuracy:
    """The share of texts whose class was found, from 0 to 100."""

    accuracy: float
    sentences: int

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON-ready values."""
        return asdict(self)


def class_logits(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    title: str = "evaluating",
) -> npt.NDArray[np.float32]:
    """The logits of texts, float32 `[N, classes]`.

    Args:
        model: a transformers model, prepared or not, a `FrozenModel`, or a `CompiledModule`.
        tokenizer: of the model.
        texts: at least one.
        max_length: tokens to truncate to.
        batch_size: texts per batch.
        progress: called with `title` and the share that is done.
        title: of the progress reports.
    """
    model, pad = runner(model), int(tokenizer.pad_token_id or 0)
    rows, found = encode(tokenizer, texts, max_length), []
    training = getattr(model, "training", False)
    if isinstance(model, nn.Module):
        model.eval()
    for first in range(0, len(rows), batch_size):
        batch = padded(rows[first : first + batch_size], pad)
        if isinstance(model, nn.Module):
            device: Any = next(model.parameters()).device
            with torch.no_grad():
                logits = model(**{name: value.to(device) for name, value in batch.items()}).logits
            found.append(logits.float().cpu().numpy())
        else:
            found.append(model(**{name: value.numpy() for name, value in batch.items()})["logits"])
        if progress is not None:
            progress(title, min(1.0, (first + batch_size) / len(rows)))
    if isinstance(model, nn.Module):
        model.train(training)
    return np.concatenate(found)


def accuracy(logits: npt.NDArray[np.float32], texts: Sequence[LabeledText]) -> Accuracy:
    """The accuracy of logits `[N, classes]` of labelled texts.

    Raises:
        DataError: a text has no class.
    """
    labels = [text.label for text in texts]
    if None in labels or not labels:
        raise DataError(
            f"{labels.count(None)} of {len(labels)} texts have no class: accuracy needs one for each"
        )
    return Accuracy(100.0 * float(np.mean(logits.argmax(-1) == np.array(labels))), len(labels))
