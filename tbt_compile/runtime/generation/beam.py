"""Beam search, with the bookkeeping of transformers' vectorized implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation.hypotheses import Finished, Mask, Running
from tbt_compile.runtime.generation.processors import build_rules
from tbt_compile.runtime.generation.ranking import NUMPY, TokenRanking
from tbt_compile.runtime.generation.rules import Rule
from tbt_compile.runtime.generation.session import (
    DecoderSession,
    Scores,
    Tokens,
    checked_step,
    nan_error,
    with_room,
)
from tbt_compile.runtime.generation.settings import GenerationSettings, Lengths


class BeamResult(NamedTuple):
    """The result of a beam search; the sequences of one input are adjacent, best first.

    Attributes:
        sequences: int64 [batch * num_return_sequences, length], prompt included.
        scores: float32 [batch * num_return_sequences], the sum of the tokens' log-probabilities divided by
            the number of new tokens to the power `length_penalty`.
    """

    sequences: Tokens
    scores: Scores


def beam_search(
    session: DecoderSession,
    prompt: Tokens,
    settings: GenerationSettings,
    *,
    encoder_input_ids: Tokens | None = None,
    padding: Tokens | None = None,
    ranking: TokenRanking = NUMPY,
    more_rules: Sequence[Rule] = (),
) -> BeamResult:
    """Search for the sequences with the best scores, with `num_beams` beams per input.

    Ties go to the lower beam, then to the lower token. transformers leaves ties to torch.topk, which
    guarantees no order. Results can differ only there: in the sequence, or in the duplicates that fill
    `num_return_sequences` when fewer sequences exist.

    The session is expanded from inputs to beams only after the first step, and inputs with a final result
    are dropped from it. Both save work and change no result.

    Args:
        session: a session before its first step, with one row per row of `prompt`.
        prompt: int64 [batch, q], the first decoder tokens.
        settings: any `num_beams`.
        encoder_input_ids: int64 [batch, length], for the rules that look at the input.
        padding: int64 [batch], number of padding tokens at the start of each prompt.
        ranking: ranks the continuations.
        more_rules: applied after those of the settings.

    Returns:
        The best `num_return_sequences` sequences per input.

    Raises:
        GenerationError: the prompt is too long, the session's logits are malformed or NaN, a setting does not
            fit the vocabulary, or the vocabulary is too small for so many beams.
    """
    length = prompt.shape[1]
    lengths = settings.lengths(length)
    beams = settings.num_beams
    ends = np.array(settings.eos_token_id, np.int64)
    # Enough that `beams` of them do not end the sequence: each beam has at most len(ends) that do.
    kept = max(2, 1 + len(ends)) * beams
    scores = checked_step(session, prompt)
    size = scores.shape[1]
    if size * beams < kept:
        raise GenerationError(f"num_beams={beams} is too many for a vocabulary of {size} tokens")
    rules = [*build_rules(settings, lengths, size, encoder_input_ids, padding), *more_rules]
    running = Running.start(prompt, beams)
    finished = Finished.start(running, lengths.prompt)
    while True:
        rows_per_input = len(scores) // len(running.inputs)
        ranking.log_softmax(scores)
        if rules:
            so_far = running.ids[:, :rows_per_input, :length].reshape(-1, length)
            row_inputs = running.inputs.repeat(rows_per_input)
            for rule in rules:
                rule(so_far, scores, row_inputs)
        per_beam = scores.repeat(beams // rows_per_input, axis=0) if rows_per_input < beams else scores
        best = ranking.best(per_beam.reshape(-1, beams, size), running.scores, kept)
        if np.isnan(best.scores).any():
            raise nan_error(length)
        length += 1
        for beams_so_far in (running, finished):
            beams_so_far.ids = with_room(beams_so_far.ids, length, lengths.maximum, _padding(settings))
        ended = (best.tokens[:, :, None] == ends).any(axis=2) | (length == lengths.maximum)
        finished.update(running, best, ended, length, settings.length_penalty)
        if length == lengths.maximum:
            break
        origins = running.advance(best, ended, length)
        is_open = _can_improve(settings, lengths, running, finished, length)
        if not is_open.any():
            break
        rows = np.arange(len(origins))[:, None] * rows_per_input + np.minimum(origins, rows_per_input - 1)
        running.keep(is_open)
        rows = rows[is_open].reshape(-1)
        if not np.array_equal(rows, np.arange(len(scores))):
            session.reorder(rows)
        scores = checked_step(session, running.ids[:, :, length - 1].reshape(-1, 1))
    return BeamResult(*finished.best(settings.num_return_sequences))


def _can_improve(
    settings: GenerationSettings, lengths: Lengths, running: Running, finished: Finished, length: int
) -> Mask:
    """Return, per open input, whether further steps can change its result.

    The best reachable score is estimated, as in transformers, from the best beam's current sum of
    log-probabilities: divided by the current length, or by the maximum length if `early_stopping` is "never"
    and `length_penalty` rewards length.
    """
    optimistic = settings.early_stopping == "never" and settings.length_penalty > 0
    new_tokens = (lengths.maximum if optimistic else length) - lengths.prompt
    with np.errstate(over="ignore"):
        is_open = finished.improvable(running, np.float64(new_tokens) ** settings.length_penalty)
    if settings.early_stopping is True:
        is_open &= ~finished.done[running.inputs].all(axis=1)
    return is_open


def _padding(settings: GenerationSettings) -> int:
    """Return the token that pads a sequence after its end.

    A padding token of 0 (T5's) is replaced by the first end token, because transformers' `pad or eos[0]`
    treats 0 as missing. Without end tokens no sequence ends early.
    """
    if not settings.eos_token_id:
        return -1
    return settings.pad_token_id or settings.eos_token_id[0]
