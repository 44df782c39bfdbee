"""One output that is being written, token by token, beside others of other requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tbt_compile.errors import GenerationError, TbtError
from tbt_compile.runtime.generation import GenerationSettings, Scores, Tokens
from tbt_compile.runtime.generation.processors import build_rules
from tbt_compile.runtime.generation.rules import Rule
from tbt_compile.runtime.generation.sampling import Sampler
from tbt_compile.runtime.generation.session import nan_error, with_room

log = logging.getLogger(__name__)
Reason = Literal["end", "length", "cancelled"]
_ROW = np.zeros(1, np.int64)


@dataclass
class Writing:
    """An output: what it starts from, the rules of its tokens, and who is told of them.

    The tokens are those of `generate` for this source alone, with the same settings.

    Attributes:
        source: int64 [S], the source of an encoder-decoder, or the prompt of a decoder-only model.
        prompt: int64 [q], the first decoder tokens; in a decoder-only model the source.
        settings: of greedy search or sampling.
        stream: the number of its random numbers, for a seed.
        vocabulary: number of tokens.
        on_token: called with every new token, the end token included.
        on_end: called once, with the reason or the error.
        cancelled: set by the caller to end it.
        newest: the last token.
        ended: whether `on_end` was called.

    Raises:
        GenerationError: a setting does not fit the vocabulary, or asks for beams.
    """

    source: Tokens
    prompt: Tokens
    settings: GenerationSettings
    stream: int
    vocabulary: int
    on_token: Callable[[int], None]
    on_end: Callable[[Reason | TbtError], None]
    cancelled: bool = False
    newest: int = -1
    ended: bool = field(default=False, init=False)
    _rules: list[Rule] = field(init=False)

    def __post_init__(self) -> None:
        if self.settings.num_beams > 1:
            raise GenerationError(
                f"num_beams={self.settings.num_beams}: expected 1 where requests share steps"
            )
        self._lengths = self.settings.lengths(len(self.prompt))
        self._ids = self.prompt[None]
        self._length = len(self.prompt)
        self._rules = build_rules(self.settings, self._lengths, self.vocabulary, self.source[None])
        self._sampler = Sampler(self.settings, np.array([self.stream])) if self.settings.do_sample else None

    @property
    def most_tokens(self) -> int:
        """The largest length that the output may have, prompt included."""
        return self._lengths.maximum

    def end(self, how: Reason | TbtError) -> None:
        """Report that the output ends, unless that was reported."""
        if not self.ended:
            self.ended = True
            self.on_end(how)

    def take(self, scores: Scores) -> bool:
        """Choose the next token from its scores, float32 [1, V], and report it.

        Returns:
            Whether the output goes on.
        """
        if self.cancelled:
            self.end("cancelled")
            return False
        try:
            self.newest = self._choose(scores)
        except TbtError as error:
            self.end(error)
            return False
        except Exception as error:  # whatever it was, the outputs that share the step go on
            log.exception("choosing a token failed")
            self.end(GenerationError(f"{type(error).__name__}: {error}"))
            return False
        self._ids = with_room(self._ids, self._length + 1, self.most_tokens, self.newest)
        self._ids[0, self._length] = self.newest
        self._length += 1
        self.on_token(self.newest)
        if self.newest in self.settings.eos_token_id:
            self.end("end")
        elif self._length == self.most_tokens:
            self.end("length")
        else:
            return True
        return False

    def _choose(self, scores: Scores) -> int:
        for rule in self._rules:
            rule(self._ids[:, : self._length], scores, _ROW)
        chosen = int((scores.argmax(axis=1) if self._sampler is None else self._sampler(scores, _ROW))[0])
        if np.isnan(scores[0, chosen]):
            raise nan_error(self._length)
        return chosen
