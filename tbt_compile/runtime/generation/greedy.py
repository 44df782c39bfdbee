"""Searches with one sequence per row: greedy search, and sampling with another choice of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tbt_compile.runtime.generation.processors import build_rules
from tbt_compile.runtime.generation.rules import Rule
from tbt_compile.runtime.generation.session import (
    DecoderSession,
    Scores,
    Tokens,
    checked_step,
    nan_error,
    with_room,
)
from tbt_compile.runtime.generation.settings import GenerationSettings

OnTokens = Callable[[Tokens], None]
Choice = Callable[[Scores, Tokens], Tokens]
"""From scores, float32 [rows, vocabulary], and the input of each row to the next token of each, int64."""


def _best(scores: Scores, _inputs: Tokens) -> Tokens:
    return scores.argmax(axis=1)


_SHRINK_BELOW = 0.75
"""Drop finished rows once the share of unfinished ones is below this: dropping copies the other caches."""


def greedy_search(
    session: DecoderSession,
    prompt: Tokens,
    settings: GenerationSettings,
    *,
    encoder_input_ids: Tokens | None = None,
    padding: Tokens | None = None,
    on_tokens: OnTokens | None = None,
    more_rules: Sequence[Rule] = (),
    choose: Choice = _best,
) -> Tokens:
    """Take one token at every step: by default the most probable, ties going to the lowest.

    Args:
        session: a session before its first step, with one row per row of `prompt`.
        prompt: int64 [batch, q], the first decoder tokens.
        settings: `num_beams` is 1.
        encoder_input_ids: int64 [batch, length], for the rules that look at the input.
        padding: int64 [batch], number of padding tokens at the start of each prompt.
        on_tokens: called after every step with the new tokens, int64 [batch]; padding in finished rows.
        more_rules: applied after those of the settings.
        choose: makes the choice.

    Returns:
        int64 [batch, length], prompt included, padded after the end token.

    Raises:
        GenerationError: the prompt is too long, the session's logits are malformed or NaN, or a setting does
            not fit the vocabulary.
    """
    batch, length = prompt.shape
    lengths = settings.lengths(length)
    ends = frozenset(settings.eos_token_id)
    pad = _padding(settings)
    output = prompt
    inputs = np.arange(batch)
    live = np.ones(batch, bool)
    remaining = batch
    scores = checked_step(session, prompt)
    rules = [*build_rules(settings, lengths, scores.shape[1], encoder_input_ids, padding), *more_rules]
    while True:
        if rules:
            so_far = output[:, :length] if len(inputs) == batch else output[inputs, :length]
            for rule in rules:
                rule(so_far, scores, inputs)
        chosen = choose(scores, inputs)
        # Ten NumPy calls take as long as a decode step of a small model: the common path makes few.
        token_list = chosen.tolist()
        if any(math.isnan(scores.item(place)) for place in enumerate(token_list)):
            raise nan_error(length)
        if remaining < len(live):
            chosen[~live] = pad
        output = with_room(output, length + 1, lengths.maximum, pad)
        output[inputs, length] = chosen
        length += 1
        if on_tokens is not None:
            on_tokens(output[:, length - 1].copy())
        if not ends.isdisjoint(token_list):
            live &= ~np.isin(chosen, settings.eos_token_id)
            remaining = np.count_nonzero(live)
        if length == lengths.maximum or not remaining:
            return output[:, :length]
        if remaining < _SHRINK_BELOW * len(live):
            rows = np.flatnonzero(live)
            session.reorder(rows)
            inputs, chosen, live = inputs[rows], chosen[rows], live[rows]
        scores = checked_step(session, chosen[:, None])


def _padding(settings: GenerationSettings) -> int:
    """Return the token that pads a sequence after its end: the padding token, else the first end token.

    Without end tokens no sequence ends early, and the value is not used.
    """
    if settings.pad_token_id is not None or not settings.eos_token_id:
        return settings.pad_token_id or 0
    return settings.eos_token_id[0]
