"""Continuous batching: requests join the running batch at its next step, and leave when they are done.

Rows of a decoder-only model that counts attended tokens join one batch: a newcomer's prompt is encoded by
itself, and its keys and values are moved to end with the others'. Other models, whose rows need the same
number of tokens, keep a batch for those that began together, and batches take turns. What is written for a
request does not depend on the others.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbt_compile.errors import GenerationError, TbtError
from tbt_compile.runtime import worker_threads
from tbt_compile.runtime.decoder_only import DecoderOnlySession
from tbt_compile.runtime.generation import DecoderSession, GenerationSettings, Tokens
from tbt_compile.runtime.served_model import ServedModel
from tbt_compile.runtime.writing import Writing

log = logging.getLogger(__name__)


class FullError(TbtError):
    """Too many requests are waiting."""


@dataclass
class _Batch:
    """Rows that take their steps together."""

    session: DecoderSession
    writings: list[Writing]


class Engine:
    """Writes the outputs of any number of requests with one compiled model.

    Args:
        model: the model.
        most_rows: rows that are written at a time.
        most_waiting: outputs that may wait for a row.
        batch_tokens: tokens of prompts, padding included, that are encoded at a time; a longer one is encoded
            by itself.
    """

    def __init__(
        self, model: ServedModel, most_rows: int = 16, most_waiting: int = 256, batch_tokens: int = 4096
    ) -> None:
        self._model = model
        self.most_rows, self.most_waiting, self._batch_tokens = most_rows, most_waiting, batch_tokens
        self._waiting: deque[Writing] = deque()
        self._batches: list[_Batch] = []
        self._beginning: list[Writing] = []
        self._changed = threading.Condition()
        self._stopping = self._draining = False
        self._done = worker_threads.submit(self._run)

    @property
    def waiting(self) -> int:
        """Outputs that wait for a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Outputs that are being written."""
        return len(self._beginning) + sum(len(batch.writings) for batch in self._batches)

    def prepare(
        self, source: Sequence[int], settings: GenerationSettings, stream: int, on_token: Any, on_end: Any
    ) -> Writing:
        """Check a request.

        Args:
            source: token ids of the source or prompt.
            settings: of greedy search or sampling.
            stream: see `Writing`.
            on_token, on_end: see `Writing`; called in the engine's thread, which they must not hold up.

        Returns:
            What `submit` takes.

        Raises:
            GenerationError: the source or a setting does not fit the model.
        """
        ids, prompt = self._model.request(source, settings)
        writing = Writing(ids, prompt, settings, stream, self._model.vocabulary, on_token, on_end)
        self._model.check_length(len(prompt), writing.most_tokens)
        return writing

    def check_places(self, outputs: int) -> None:
        """Check that `submit` would take as many outputs now.

        Raises:
            FullError: too many are waiting, or the engine is stopping.
            GenerationError: there are more than rows and places to wait in.
        """
        places = self.most_rows + self.most_waiting
        if outputs > places:
            raise GenerationError(
                f"{outputs} outputs in one request: expected at most {places}, of which {self.most_rows} are "
                "written at a time"
            )
        if self._draining:
            raise FullError("the service is shutting down and takes no more requests")
        if len(self._waiting) + self.running + outputs > places:
            raise FullError(f"{len(self._waiting)} outputs are waiting, and at most {self.most_waiting} may")

    def submit(self, writings: Sequence[Writing]) -> None:
        """Take the outputs of a request, all or none.

        Raises:
            FullError: too many are waiting, or the engine is stopping.
            GenerationError: there are more than rows and places to wait in.
        """
        with self._changed:
            self.check_places(len(writings))
            self._waiting.extend(writings)
            self._changed.notify()

    def stop(self, finish: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, and return when the thread has ended.

        Args:
            finish: whether what was submitted is written to its end; else it is cancelled after this step.
            timeout: seconds after which the rest is cancelled.
        """
        with self._changed:
            self._draining, self._stopping = True, not finish
            self._changed.notify()
        try:
            self._done.result(timeout)
        except futures.TimeoutError:  # another class than TimeoutError until Python 3.11
            self._stopping = True
            self._done.result()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._batches and not self._draining:
                    self._changed.wait()
                if self._draining and not self._waiting and not self._batches:
                    return
                new = self._admitted()
            if self._stopping:
                for writing in [*new, *(each for batch in self._batches for each in batch.writings)]:
                    writing.cancelled = True
            live = [writing for writing in new if not writing.cancelled]
            for writing in new:
                if writing.cancelled:
                    writing.end("cancelled")
            groups = self._groups(live)
            self._beginning = [writing for group in groups for writing in group]
            for group in groups:
                self._guarded(group, lambda group=group: self._begin(group))
            self._beginning = []
            for batch in list(self._batches):
                self._guarded(batch.writings, lambda batch=batch: self._step(batch))
            self._batches = [batch for batch in self._batches if batch.writings]

    def _admitted(self) -> list[Writing]:
        """Take waiting outputs as far as there are rows and room for their prompts; they count as running."""
        new: list[Writing] = []
        width = 0
        while self._waiting and self.running + len(new) < self.most_rows:
            following = self._waiting[0]
            width = max(width, len(following.source))
            if new and width * (len(new) + 1) > self._batch_tokens:
                break
            if new and not self._model.rows_can_join and not self._may_share(new[0], following):
                break
            new.append(self._waiting.popleft())
        self._beginning = list(new)
        return new

    def _groups(self, live: Sequence[Writing]) -> list[list[Writing]]:
        """Outputs that begin together: new prompts would have those of which a part is kept read whole."""
        groups: tuple[list[Writing], list[Writing]] = ([], [])
        for writing in live:
            groups[self._model.known(writing.source) == 0].append(writing)
        return [group for group in groups if group]

    def _may_share(self, first: Writing, second: Writing) -> bool:
        """Whether two outputs of a model whose rows do not join can begin together."""
        if self._model.has_encoder:
            return len(first.prompt) == len(second.prompt)
        return len(first.source) == len(second.source)

    def _guarded(self, writings: Sequence[Writing], work: Any) -> None:
        """Do work for some outputs; an error ends them, and no others."""
        affected = list(writings)
        try:
            work()
        except Exception as error:  # whatever it was, the other requests go on
            log.exception("a step of %d outputs failed", len(affected))
            told = (
                error if isinstance(error, TbtError) else GenerationError(f"{type(error).__name__}: {error}")
            )
            self._batches = [batch for batch in self._batches if not _same(batch.writings, affected)]
            for writing in affected:
                writing.end(told)

    def _begin(self, writings: list[Writing]) -> None:
        """Encode the sources of new outputs, write their first tokens, and let them join."""
        running = self._batches[0].session if self._model.rows_can_join and self._batches else None
        ids, mask = _batch_of(writings, left=not self._model.has_encoder)
        session = self._model.open(ids, mask)
        prompt = ids if not self._model.has_encoder else np.stack([each.prompt for each in writings])
        batch = _Batch(session, list(writings))
        self._write(batch, session.step(prompt))
        self._beginning = self._beginning[len(writings) :]
        if not batch.writings:
            return
        if running is None:
            self._batches.append(batch)
        else:
            assert isinstance(running, DecoderOnlySession) and isinstance(session, DecoderOnlySession)
            running.join(session)
            self._batches[0].writings += batch.writings

    def _step(self, batch: _Batch) -> None:
        newest = np.array([[writing.newest] for writing in batch.writings])
        self._write(batch, batch.session.step(newest))

    def _write(self, batch: _Batch, logits: Any) -> None:
        """Choose the next token of every row, and drop the rows that are done."""
        scores = self._model.whole_logits(logits)
        kept = [row for row, writing in enumerate(batch.writings) if writing.take(scores[row : row + 1])]
        if 0 < len(kept) < len(batch.writings):
            batch.session.reorder(np.array(kept))
            if isinstance(batch.session, DecoderOnlySession) and self._model.rows_can_join:
                batch.session.trim()
        batch.writings = [batch.writings[row] for row in kept]


def _batch_of(writings: Sequence[Writing], left: bool) -> tuple[Tokens, Tokens]:
    """Pad the sources of new outputs: ids and mask, int64 [B, S].

    Args:
        writings: the outputs.
        left: whether padding comes first.
    """
    width = max(len(writing.source) for writing in writings)
    ids, mask = np.zeros((len(writings), width), np.int64), np.zeros((len(writings), width), np.int64)
    for row, writing in enumerate(writings):
        count = len(writing.source)
        place = slice(width - count, width) if left else slice(0, count)
        ids[row, place], mask[row, place] = writing.source, 1
    return ids, mask


def _same(first: Sequence[Writing], second: Sequence[Writing]) -> bool:
    return bool(first) and bool(second) and first[0] is second[0]
