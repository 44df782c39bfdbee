"""Batched generation for many sources: batches of similar length on several threads, results in order.

Threads scale because TVM releases the GIL while a kernel runs. Greedy search holds the GIL for about 1% of
its time, beam search for 10% to 33%.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from tbt_compile.errors import GenerationError
from tbt_compile.runtime import worker_threads
from tbt_compile.runtime.generation import (
    DecoderSession,
    GenerationSettings,
    Scores,
    Tokens,
    decoder_prompt,
    search,
)
from tbt_compile.runtime.generation.shortlist import Search

BATCH_SIZE = 32
BATCH_TOKENS = 4096
BatchProgress = Callable[[int, int], None]
"""Called after a batch with the number of sources done and the number of all."""


@dataclass(frozen=True)
class Batching:
    """Limits on batches, and how many run in parallel.

    Attributes:
        batch_size: maximum number of sources in a batch.
        batch_tokens: maximum number of tokens in a batch, padding included; a longer source is a batch by
            itself.
        num_workers: number of batches that run in parallel.
    """

    batch_size: int = BATCH_SIZE
    batch_tokens: int = BATCH_TOKENS
    num_workers: int = 1


def pack(
    lengths: Sequence[int], batch_size: int, batch_tokens: int, same_length: bool = False
) -> list[list[int]]:
    """Group sources into batches, longest first.

    Memory then peaks at the start, and the workers finish at about the same time.

    Args:
        lengths: number of tokens of each source.
        batch_size: maximum number of sources in a batch.
        batch_tokens: maximum number of tokens in a batch, padding included; a longer source is a batch by
            itself.
        same_length: batch only sources of equal length.

    Returns:
        Indices of the sources in each batch.

    >>> pack([3, 9, 4, 9], batch_size=3, batch_tokens=20)
    [[1, 3], [2, 0]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        last = batches[-1] if batches else []
        longest = lengths[last[0]] if last else 0
        full = not last or len(last) == batch_size or (len(last) + 1) * longest > batch_tokens
        if full or (same_length and lengths[index] != longest):
            batches.append([index])
        else:
            last.append(index)
    return batches


def pad(rows: Sequence[Tokens], value: int) -> tuple[Tokens, Tokens]:
    """Pad rows on the right with `value`; returns ids and attention mask, int64 [B, S] each."""
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.full(mask.shape, value, np.int64)
    ids[mask == 1] = np.concatenate(rows)
    return ids, mask


def cut_after_end(row: Sequence[int], ends: Sequence[int], first: int = 1) -> list[int]:
    """Cut a generated row after its first end token.

    Args:
        row: token ids.
        ends: ids of the end tokens.
        first: number of tokens to skip: the decoder's start token, or a prompt, may hold end tokens.

    Returns:
        The row up to and including its first end token; the whole row if it has none.

    >>> cut_after_end([2, 7, 2, 1, 1], [2])
    [2, 7, 2]
    """
    for place in range(first, len(row)):
        if row[place] in ends:
            return [int(token) for token in row[: place + 1]]
    return [int(token) for token in row]


class StoppedError(Exception):
    """Raised in a worker after the caller has stopped waiting for its result."""


class Stoppable:
    """Wraps a session to raise `StoppedError` at the first step after `stop` is set."""

    def __init__(self, session: DecoderSession, stop: threading.Event) -> None:
        self.session, self.stop = session, stop

    def step(self, tokens: Tokens) -> Scores:
        if self.stop.is_set():
            raise StoppedError
        return self.session.step(tokens)

    def reorder(self, rows: Tokens) -> None:
        self.session.reorder(rows)


def _outcome(work: Callable[[list[int]], Tokens], batch: list[int]) -> Tokens | BaseException:
    try:
        return work(batch)
    except BaseException as error:  # re-raised by the waiting thread
        return error


def run_batches(
    open_session: Callable[[Tokens, Tokens], DecoderSession],
    settings: GenerationSettings,
    rows: Sequence[Tokens],
    batching: Batching,
    *,
    progress: BatchProgress | None = None,
    prompts: bool = False,
    run_search: Search = search,
) -> list[Tokens]:
    """Generate for every row in batches; see `CompiledModel.generate_many`.

    The calling thread only waits and takes an interrupt at once. Workers then stop at their next step.

    Args:
        open_session: makes a session from ids and mask, int64 [B, S]; called in any thread.
        settings: settings of the search.
        rows: token ids, int64 [S] each.
        batching: limits on batches, and how many run in parallel.
        progress: called after every batch.
        prompts: whether the output continues the rows, as in decoder-only models.
        run_search: the search, with the arguments of `generation.search`.

    Returns:
        num_return_sequences outputs per row, int64 [T] each, in the order of the rows.

    Raises:
        GenerationError: a setting does not fit.
    """
    if isinstance(settings.decoder_start_token_id, tuple):
        raise GenerationError("decoder_start_token_id has one id per source: expected one id for all sources")
    # transformers' versions of these two rules also see the padding of a source.
    same_length = settings.encoder_no_repeat_ngram_size > 0 or settings.encoder_repetition_penalty != 1
    # max_length and min_length count the padding of prompts.
    same_length |= prompts
    share = -(-len(rows) // batching.num_workers)
    most = min(batching.batch_size, max(1, share))
    batches = pack([len(row) for row in rows], most, batching.batch_tokens, same_length)
    stop = threading.Event()
    copies = settings.num_return_sequences
    results: list[Tokens] = [np.empty(0, np.int64)] * (len(rows) * copies)

    def work(batch: list[int]) -> Tokens:
        ids, mask = pad([rows[index] for index in batch], settings.pad_token_id or 0)
        session = Stoppable(open_session(ids, mask), stop)
        prompt = ids if prompts else decoder_prompt(settings, len(batch))
        return run_search(session, settings, prompt, encoder_input_ids=ids, streams=np.array(batch))

    waiting = deque(batches)
    finished: SimpleQueue[tuple[list[int], Tokens | BaseException]] = SimpleQueue()

    def worker() -> None:
        while waiting and not stop.is_set():
            with suppress(IndexError):  # another worker may have popped the last batch
                batch = waiting.popleft()
                finished.put((batch, _outcome(work, batch)))

    try:
        for _ in range(min(batching.num_workers, len(batches))):
            worker_threads.submit(worker)
        done = 0
        for _ in batches:
            batch, outcome = finished.get()
            if isinstance(outcome, BaseException):
                raise outcome
            for place, row in enumerate(outcome):
                index = batch[place // copies] * copies + place % copies
                first = len(rows[index // copies]) if prompts else 1
                results[index] = np.array(cut_after_end(row.tolist(), settings.eos_token_id, first), np.int64)
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
    finally:
        stop.set()
    return results
