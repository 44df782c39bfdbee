"""Construction of the logits rules that settings ask for, in transformers' order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import rules
from tbt_compile.runtime.generation.sequence_rules import NoEncoderNgram, NoRepeatNgram, SequenceBias
from tbt_compile.runtime.generation.session import Tokens
from tbt_compile.runtime.generation.settings import GenerationSettings, Lengths


def build_rules(
    settings: GenerationSettings,
    lengths: Lengths,
    vocabulary: int,
    encoder_input_ids: Tokens | None,
    padding: Tokens | None = None,
) -> list[rules.Rule]:
    """Make the rules that `settings` ask for.

    Args:
        settings: settings of the search.
        lengths: of the sequences, prompt included.
        vocabulary: number of logits.
        encoder_input_ids: int64 [inputs, length], for the rules that look at the input; None if unknown.
        padding: int64 [inputs], number of padding tokens at the start of each prompt; None for no padding.

    Returns:
        The rules, in the order in which to apply them.

    Raises:
        GenerationError: a forced or biased token is outside the vocabulary, or a rule needs
            `encoder_input_ids` and there are none.
    """
    _check_vocabulary(settings, vocabulary)
    ends = _inside(settings.eos_token_id, vocabulary)
    built: list[rules.Rule] = []
    if settings.sequence_bias:
        built.append(SequenceBias.of(settings.sequence_bias))
    if settings.encoder_repetition_penalty != 1:
        source = _source("encoder_repetition_penalty", encoder_input_ids)
        # Values above 1 favor the tokens of the input: the inverse of what repetition_penalty does.
        built.append(rules.EncoderRepetitionPenalty(1 / settings.encoder_repetition_penalty, source))
    if settings.repetition_penalty != 1:
        built.append(rules.RepetitionPenalty(settings.repetition_penalty, padding))
    if settings.no_repeat_ngram_size:
        built.append(NoRepeatNgram(settings.no_repeat_ngram_size))
    if settings.encoder_no_repeat_ngram_size:
        source = _source("encoder_no_repeat_ngram_size", encoder_input_ids)
        built.append(NoEncoderNgram.of(settings.encoder_no_repeat_ngram_size, source))
    # transformers ignores bad words that are just the end token: every sequence would run to the maximum.
    banned = [ids for ids in settings.bad_words_ids if len(ids) > 1 or ids[0] not in settings.eos_token_id]
    if banned:
        built.append(SequenceBias.of((ids, -np.inf) for ids in banned))
    if lengths.minimum > lengths.prompt:
        built.append(rules.Ban(ends, range(lengths.minimum)))
    if settings.forced_bos_token_id is not None:
        built.append(rules.Force(np.array([settings.forced_bos_token_id]), at_length=1))
    if settings.forced_eos_token_id:
        built.append(rules.Force(np.array(settings.forced_eos_token_id), at_length=lengths.maximum - 1))
    if settings.remove_invalid_values:
        built.append(rules.remove_invalid_values)
    if settings.exponential_decay_length_penalty is not None:
        start, factor = settings.exponential_decay_length_penalty
        built.append(rules.EndBoost(ends, lengths.prompt + start, factor))
    if settings.suppress_tokens:
        tokens = _inside(settings.suppress_tokens, vocabulary)
        built.append(rules.Ban(tokens, range(lengths.maximum)))
    if settings.begin_suppress_tokens:
        tokens = _inside(settings.begin_suppress_tokens, vocabulary)
        begin = lengths.prompt + (lengths.prompt == 1 and settings.forced_bos_token_id is not None)
        built.append(rules.Ban(tokens, range(begin, begin + 1)))
    if settings.renormalize_logits:
        built.append(rules.renormalize)
    return built


def _check_vocabulary(settings: GenerationSettings, vocabulary: int) -> None:
    forced_first = settings.forced_bos_token_id
    used: dict[str, Iterable[int]] = {
        "forced_bos_token_id": () if forced_first is None else (forced_first,),
        "forced_eos_token_id": settings.forced_eos_token_id,
        "bad_words_ids": (token for ids in settings.bad_words_ids for token in ids),
        "sequence_bias": (token for ids, _ in settings.sequence_bias for token in ids),
    }
    for name, tokens in used.items():
        outside = sorted({token for token in tokens if token >= vocabulary})
        if outside:
            raise GenerationError(
                f"{name}: token {outside[0]} is outside the vocabulary of {vocabulary} tokens"
            )


def _inside(tokens: tuple[int, ...], vocabulary: int) -> Tokens:
    return np.array(sorted({token for token in tokens if token < vocabulary}), np.int64)


def _source(name: str, encoder_input_ids: Tokens | None) -> Tokens:
    if encoder_input_ids is None:
        raise GenerationError(f"{name} needs the tokens of the input: pass encoder_input_ids")
    return encoder_input_ids
