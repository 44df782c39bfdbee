"""Generation of texts for a list of sources, with an eager or a compiled model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.data.batches import pad_left, pad_right
from tbt_compile.data.examples import RowDataset
from tbt_compile.data.limits import check_rows, positions_of
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.errors import DataError, GenerationError
from tbt_compile.freezing import FrozenModel
from tbt_compile.progress import Progress
from tbt_compile.runtime.batching import BATCH_SIZE, BATCH_TOKENS, cut_after_end, pack


@dataclass(frozen=True)
class DecodeSettings:
    """Settings of generation for a list of sources.

    Attributes:
        max_source_length: in tokens; longer sources are truncated.
        max_new_tokens: after which generation stops.
        num_beams: beams of the search; 1 is greedy.
        batch_size: maximum sources per batch.
        num_workers, num_threads: of a compiled model; see `CompiledModel.generate_many`.
        template: makes the prompts of a decoder-only model; None for an encoder-decoder.
    """

    max_source_length: int
    max_new_tokens: int
    num_beams: int = 1
    batch_size: int = BATCH_SIZE
    num_workers: int = 1
    num_threads: int | None = None
    template: PromptTemplate | None = None

    def encode(self, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str]) -> list[list[int]]:
        """The token ids of every source, truncated; of its prompt if there is a template."""
        if self.template is not None:
            return self.template.prompts(tokenizer, sources, self.max_source_length)
        cut = tokenizer(list(sources), truncation=True, max_length=self.max_source_length)
        rows: list[list[int]] = cut["input_ids"]
        return rows

    @property
    def search(self) -> dict[str, int]:
        """The search settings as arguments of a model's `generate`."""
        return {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class Generated:
    """The output of a model, in the order of the sources.

    Attributes:
        tokens: of every text, up to the end token; without the prompt.
        texts: decoded, without special tokens.
        lengths: tokens of every text, without special tokens.
        seconds: wall time of generation, without tokenization.
    """

    tokens: list[list[int]]
    texts: list[str]
    lengths: list[int]
    seconds: float

    @property
    def mean_length(self) -> float:
        """The mean number of tokens per text."""
        return sum(self.lengths) / len(self.lengths)


def generate_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    decode: DecodeSettings,
    *,
    progress: Progress | None = None,
    title: str = "generating",
) -> Generated:
    """Generate one text per source, in batches of similar length.

    Args:
        model: a transformers model, prepared or not, a `FrozenModel`, or a `CompiledModel`.
        tokenizer: of the model.
        sources: texts.
        decode: lengths, search and batch size.
        progress: called with `title` and the share of the sources done, from 0 to 1.
        title: of the progress reports.

    Returns:
        Tokens and texts in the order of the sources.

    Raises:
        GenerationError: workers or threads were set for a PyTorch model, or the template does not fit the
            model: one of prompts for a decoder-only model, none for others.
        DataError: the template does not fit the tokenizer, or a source the model.
    """
    model = runner(model)
    prompts = _reads_prompts(model, decode)
    rows = decode.encode(tokenizer, sources)
    _check_lengths(model, rows, decode)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(title, done / total)

    report(0, len(rows))
    start = time.perf_counter()
    if not isinstance(model, PreTrainedModel):
        written = model.generate_many(
            rows,
            batch_size=decode.batch_size,
            num_workers=decode.num_workers,
            num_threads=decode.num_threads,
            progress=report,
            **decode.search,
        )
        tokens = [row.tolist() for row in written]
        if prompts:
            tokens = [row[len(prompt) :] for row, prompt in zip(tokens, rows, strict=True)]
    elif decode.num_workers == 1 and decode.num_threads is None:
        tokens = _generate_many(model, rows, int(tokenizer.pad_token_id or 0), decode, report)
    else:
        raise GenerationError(
            f"num_workers={decode.num_workers}, num_threads={decode.num_threads} with a PyTorch model: "
            "compile it, or leave them out"
        )
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
    decode: DecodeSettings,
    warm_up: int = 3,
) -> float:
    """The mean latency of one text at batch size 1, without tokenization.

    Args:
        model, tokenizer, sources: as for `generate_texts`.
        decode: lengths and search; batch size, workers and threads are ignored.
        warm_up: sources to generate for first, untimed.

    Returns:
        Milliseconds per text.
    """
    rows = decode.encode(tokenizer, sources)
    model = runner(model)

    def write(row: list[int]) -> None:
        if isinstance(model, PreTrainedModel):
            _generate(model, [row], 0, decode)
        else:
            model.generate([row], [[1] * len(row)], **decode.search)

    for row in rows[:warm_up]:
        write(row)
    start = time.perf_counter()
    for row in rows:
        write(row)
    return 1000.0 * (time.perf_counter() - start) / len(rows)


def runner(model: Any) -> Any:
    """The model that generates: the eager one of a frozen model, or the one inside a wrapper."""
    if isinstance(model, FrozenModel):
        return model.module
    return unwrapped(model) if isinstance(model, nn.Module) else model


def _check_lengths(model: Any, rows: Sequence[Sequence[int]], decode: DecodeSettings) -> None:
    """Refuse sources and outputs of a PyTorch model that exceed its positions; a compiled one does so itself.

    Raises:
        DataError: there are fewer positions, or a token is not in the vocabulary.
    """
    if not isinstance(model, PreTrainedModel):
        return
    check_rows(model, RowDataset([{"input_ids": row} for row in rows], []))
    start = max(map(len, rows)) if decode.template is not None else 1
    written = start + decode.max_new_tokens - 1  # nothing reads the last token
    positions = positions_of(model)
    if positions is not None and written > positions:
        raise DataError(
            f"{decode.max_new_tokens} new tokens make texts of up to {written}, and the model has "
            f"{positions} positions: generate fewer, or truncate the sources more"
        )


def _reads_prompts(model: Any, decode: DecodeSettings) -> bool:
    """Whether the model is decoder-only and continues a prompt, which its template has to make."""
    described = model.config if isinstance(model, PreTrainedModel) else model
    prompts = not getattr(described, "is_encoder_decoder", True)
    if prompts and decode.template is None:
        raise GenerationError(
            "the model is decoder-only and continues a prompt: give the template of the prompts that it was "
            "trained with (--template)"
        )
    if not prompts and decode.template is not None:
        raise GenerationError(
            "a template was given, and the model reads its source with an encoder: leave the template out"
        )
    return prompts


def _generate_many(
    model: PreTrainedModel,
    rows: list[list[int]],
    pad: int,
    decode: DecodeSettings,
    report: Callable[[int, int], None],
) -> list[list[int]]:
    """The counterpart of `CompiledModel.generate_many` for a PyTorch model."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    tokens: list[list[int]] = [[] for _ in rows]
    done = 0
    for batch in pack([len(row) for row in rows], decode.batch_size, BATCH_TOKENS):
        written = _generate(model, [rows[index] for index in batch], pad, decode)
        for index, row in zip(batch, written.tolist(), strict=True):
            tokens[index] = cut_after_end(row, ends, first=0 if decode.template else 1)
        done += len(batch)
        report(done, len(rows))
    return tokens


@torch.no_grad()
def _generate(model: PreTrainedModel, rows: list[list[int]], pad: int, decode: DecodeSettings) -> Tensor:
    """The output of a batch; of prompts, which are padded on the left, what follows them."""
    pad_rows = pad_left if decode.template else pad_right
    ids = pad_rows(rows, pad).to(model.device)
    mask = pad_rows([[1] * len(row) for row in rows], 0).to(model.device)
    was_training = model.training
    model.eval()
    try:
        written = model.generate(ids, attention_mask=mask, do_sample=False, **decode.search)
    finally:
        model.train(was_training)
    return written[:, ids.shape[1] :] if decode.template else written
