"""Perplexity of a decoder-only model on plain texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.decoder_text import PromptCollator, TextCorpus
from tbt_compile.data.examples import IGNORED_LABEL, Row, RowDataset
from tbt_compile.data.limits import check_rows
from tbt_compile.errors import DataError, GenerationError
from tbt_compile.evaluation.generation import runner
from tbt_compile.progress import Progress


@dataclass(frozen=True)
class Perplexity:
    """The exponential of the mean negative log-likelihood per token.

    Attributes:
        perplexity: the figure.
        tokens: that were predicted: all but the first of a text.
        sentences: number of texts.
    """

    perplexity: float
    tokens: int
    sentences: int

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON-ready values."""
        return asdict(self)


def perplexity(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    block: int,
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
    title: str = "evaluating",
) -> Perplexity:
    """The perplexity of texts, each read by itself.

    A text longer than a block is read in pieces, each from the last token of the one before: every token but
    the first of a text is predicted once.

    Args:
        model: a transformers model, prepared or not, or a `FrozenModel`.
        tokenizer: of the model.
        texts: at least one of more than one token.
        block: the most tokens that are read at once.
        batch_size: pieces per batch.
        progress: called with `title` and the share that is done.
        title: of the progress reports.

    Raises:
        GenerationError: the model is compiled: it returns the logits of one step alone.
        DataError: no text has two tokens, or a piece does not fit the model, see `check_rows`.
    """
    model = runner(model)
    if not isinstance(model, PreTrainedModel):
        raise GenerationError(
            "perplexity needs the logits of whole texts, and a compiled model has those of one step: score "
            "the model that it was compiled from"
        )
    rows: list[Row] = [
        {"input_ids": piece, "labels": [IGNORED_LABEL, *piece[1:]]}
        for ids in TextCorpus(texts, tokenizer, block).documents()
        for piece in (ids[start : start + block] for start in range(0, len(ids) - 1, block - 1))
    ]
    if not rows:
        raise DataError(f"{len(texts)} texts without one of two tokens: nothing is predicted")
    rows.sort(key=lambda row: len(row["input_ids"]))
    dataset, collate = RowDataset(rows, []), PromptCollator(int(tokenizer.pad_token_id or 0))
    check_rows(model, dataset)
    loss, tokens = 0.0, 0
    training = model.training
    model.eval()
    for first in range(0, len(dataset), batch_size):
        batch = collate([dataset[row] for row in range(first, min(first + batch_size, len(dataset)))])
        labels = batch.pop("labels").to(model.device)
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits
        predicted = logits[:, :-1].float().flatten(0, 1)
        loss += F.cross_entropy(predicted, labels[:, 1:].flatten(), reduction="sum").item()
        tokens += int((labels[:, 1:] >= 0).sum())
        if progress is not None:
            progress(title, min(1.0, (first + batch_size) / len(dataset)))
    model.train(training)
    return Perplexity(math.exp(loss / tokens), tokens, len(texts))
