"""Greedy search, beam search and sampling in NumPy.

Without sampling, tokens are those of transformers' `generate`; samples have its distribution.

    settings = GenerationSettings.from_dict(generation_config).replace(num_beams=4, max_new_tokens=60)
    tokens = generate(session, settings, batch)

The decoder can be any implementation of `DecoderSession`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation.beam import BeamResult, beam_search
from tbt_compile.runtime.generation.greedy import OnTokens, greedy_search
from tbt_compile.runtime.generation.prompt import as_token_matrix, decoder_prompt
from tbt_compile.runtime.generation.ranking import NUMPY, TokenRanking
from tbt_compile.runtime.generation.rules import Rule
from tbt_compile.runtime.generation.sampling import Copies, Sampler
from tbt_compile.runtime.generation.session import DecoderSession, Scores, Tokens
from tbt_compile.runtime.generation.settings import GenerationSettings

__all__ = [
    "BeamResult",
    "DecoderSession",
    "GenerationSettings",
    "OnTokens",
    "Scores",
    "TokenRanking",
    "Tokens",
    "beam_search",
    "decoder_prompt",
    "generate",
    "greedy_search",
    "search",
]


def generate(
    session: DecoderSession,
    settings: GenerationSettings,
    batch: int,
    *,
    decoder_input_ids: ArrayLike | None = None,
    encoder_input_ids: ArrayLike | None = None,
    on_tokens: OnTokens | None = None,
) -> Tokens:
    """Generate what transformers' `generate` returns for the same logits and settings.

    Samples have the same distribution, but come from other random numbers.

    Args:
        session: a session before its first step, with one row per input.
        settings: settings of the search.
        batch: number of inputs.
        decoder_input_ids: integers [batch, q], the start of every output; default: the start token.
        encoder_input_ids: integers [batch, length]; needed only by `encoder_no_repeat_ngram_size` and
            `encoder_repetition_penalty`.
        on_tokens: not with beams; called after every step with the new tokens, int64 [batch].

    Returns:
        int64 [batch * num_return_sequences, length], the prompt included, padded after the end token.

    Raises:
        GenerationError: an argument does not fit the settings, the batch or the model.
    """
    prompt = decoder_prompt(settings, batch, decoder_input_ids)
    return search(session, settings, prompt, encoder_input_ids=encoder_input_ids, on_tokens=on_tokens)


def search(
    session: DecoderSession,
    settings: GenerationSettings,
    prompt: Tokens,
    *,
    encoder_input_ids: ArrayLike | None = None,
    padding: Tokens | None = None,
    on_tokens: OnTokens | None = None,
    ranking: TokenRanking = NUMPY,
    more_rules: Sequence[Rule] = (),
    streams: Tokens | None = None,
) -> Tokens:
    """Run the search of `generate` from a complete prompt.

    Args:
        session: as for `generate`.
        settings: as for `generate`.
        prompt: int64 [batch, q], the first tokens of every output.
        encoder_input_ids: as for `generate`.
        padding: int64 [batch], number of padding tokens at the start of each prompt.
        on_tokens: as for `generate`.
        ranking: ranks the continuations in a beam search.
        more_rules: applied after those of the settings.
        streams: int64 [batch], the numbers that tell the inputs apart for a seed; default: their places.

    Returns:
        As for `generate`.

    Raises:
        GenerationError: as for `generate`.
    """
    batch = len(prompt)
    source = None if encoder_input_ids is None else as_token_matrix("encoder_input_ids", encoder_input_ids)
    if source is not None and len(source) != batch:
        raise GenerationError(f"encoder_input_ids has {len(source)} rows: expected one per input ({batch})")
    if settings.do_sample:
        copies = settings.num_return_sequences
        numbers = (np.arange(batch) if streams is None else streams)[:, None] * copies + np.arange(copies)
        return greedy_search(
            session if copies == 1 else Copies(session, copies),
            prompt.repeat(copies, axis=0),
            settings,
            encoder_input_ids=None if source is None else source.repeat(copies, axis=0),
            padding=None if padding is None else padding.repeat(copies),
            on_tokens=on_tokens,
            more_rules=more_rules,
            choose=Sampler(settings, numbers.reshape(-1)),
        )
    if settings.num_beams == 1:
        return greedy_search(
            session,
            prompt,
            settings,
            encoder_input_ids=source,
            padding=padding,
            on_tokens=on_tokens,
            more_rules=more_rules,
        )
    if on_tokens is not None:
        raise GenerationError(
            "on_tokens needs num_beams=1: a beam search may still replace any token until its end"
        )
    return beam_search(
        session,
        prompt,
        settings,
        encoder_input_ids=source,
        padding=padding,
        ranking=ranking,
        more_rules=more_rules,
    ).sequences
