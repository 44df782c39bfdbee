"""Generating texts for a list of sources, with an eager or a compiled model alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data import pad_right
from tbt_compile.freezing import FrozenModel

Progress = Callable[[str, float], None]
"""Told what is going on and the share that is done, between 0 and 1."""


@dataclass(frozen=True)
class Generated:
    """What a model wrote, in the order of the sources.

    `tokens` hold everything the model returned except padding; `lengths` count the tokens that were written,
    without the start and the end token.
    """

    tokens: list[list[int]]
    texts: list[str]
    lengths: list[int]
    seconds: float

    @property
    def mean_length(self) -> float:
        """Mean number of tokens per text."""
        return sum(self.lengths) / len(self.lengths)


def generate_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    max_source_length: int,
    max_new_tokens: int,
    num_beams: int = 1,
    batch_size: int = 50,
    progress: Progress | None = None,
    title: str = "generating",
) -> Generated:
    """Generate one text per source, in batches of similar length.

    Args:
        model: a transformers model, prepared or not, a `FrozenModel`, or a `CompiledModel`.
    """
    rows = tokenizer(list(sources), truncation=True, max_length=max_source_length)["input_ids"]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    tokens: list[list[int]] = [[] for _ in rows]
    start = time.perf_counter()
    for first in range(0, len(order), batch_size):
        if progress is not None:
            progress(title, first / len(order))
        chosen = order[first : first + batch_size]
        written = _generate(model, tokenizer, [rows[index] for index in chosen], num_beams, max_new_tokens)
        for index, row in zip(chosen, written, strict=True):
            tokens[index] = strip_padding(row, tokenizer.pad_token_id, tokenizer.eos_token_id)
    seconds = time.perf_counter() - start
    special = set(tokenizer.all_special_ids)
    return Generated(
        tokens,
        [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)],
        [sum(token not in special for token in row) for row in tokens],
        seconds,
    )


def milliseconds_per_sentence(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    max_source_length: int,
    max_new_tokens: int,
    num_beams: int = 1,
    warm_up: int = 3,
) -> float:
    """Mean time to write one text, with the sources given one at a time, tokenization left out."""
    rows = tokenizer(list(sources), truncation=True, max_length=max_source_length)["input_ids"]
    for row in rows[:warm_up]:
        _generate(model, tokenizer, [row], num_beams, max_new_tokens)
    start = time.perf_counter()
    for row in rows:
        _generate(model, tokenizer, [row], num_beams, max_new_tokens)
    return 1000.0 * (time.perf_counter() - start) / len(rows)


def strip_padding(row: Sequence[int], pad_token_id: int | None, eos_token_id: int | None) -> list[int]:
    """A generated row without the padding behind its end.

    >>> strip_padding([2, 7, 2, 1, 1], 1, 2)
    [2, 7, 2]
    """
    end = len(row)
    while end > 0 and row[end - 1] == pad_token_id and pad_token_id != eos_token_id:
        end -= 1
    return [int(token) for token in row[:end]]


@torch.no_grad()
def _generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], num_beams: int, max_new_tokens: int
) -> list[list[int]]:
    ids = pad_right(rows, int(tokenizer.pad_token_id or 0))
    mask = pad_right([[1] * len(row) for row in rows], 0)
    options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    if isinstance(model, FrozenModel):
        model = model.module
    if not isinstance(model, PreTrainedModel):
        return _lists(model.generate(ids.numpy(), attention_mask=mask.numpy(), **options))
    was_training = model.training
    model.eval()
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    try:
        return _lists(model.generate(**inputs, do_sample=False, **options))
    finally:
        model.train(was_training)


def _lists(tokens: Any) -> list[list[int]]:
    """Rows of an integer array or tensor."""
    return [[int(token) for token in row] for row in tokens.tolist()]
