"""Generation settings: the fields of transformers' `GenerationConfig` that a search uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation.fields import CHECKS, INERT_AT, SAMPLING, refuse_unless_inert

DEFAULT_NEW_TOKENS = 20
"""Tokens generated when no length is set, as in transformers."""


class Lengths(NamedTuple):
    """Lengths of sequences in tokens, prompt included."""

    prompt: int
    minimum: int
    maximum: int


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of greedy search, beam search and sampling; all fields have their transformers meaning.

    Lengths count decoder tokens: `max_new_tokens` and `min_new_tokens` without the decoder prompt,
    `max_length` and `min_length` with it. The former take precedence. Fields that accept one id or several
    (`eos_token_id`, `forced_eos_token_id`, ...) hold a tuple, empty if unset. `decoder_start_token_id` is
    one id, or one per row. `max_position_embeddings` only caps the default length. `seed`, which transformers
    does not have, makes samples repeatable.

    >>> GenerationSettings.from_dict({"num_beams": 4, "eos_token_id": 2, "d_model": 768}).eos_token_id
    (2,)
    >>> GenerationSettings().replace(num_beams=4, max_new_tokens=60).to_dict()
    {'num_beams': 4, 'max_new_tokens': 60}

    Raises:
        GenerationError: a value has the wrong type or is out of range, num_return_sequences exceeds
            num_beams without sampling, beams are to be sampled, or a token is both forced and suppressed.
    """

    num_beams: int = 1
    num_return_sequences: int = 1
    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    decoder_start_token_id: int | tuple[int, ...] | None = None
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    max_position_embeddings: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            canonical = field.default if value is None else CHECKS[field.name](field.name, value)
            object.__setattr__(self, field.name, canonical)
        if self.do_sample and self.num_beams > 1:
            raise GenerationError(
                f"do_sample=True with num_beams={self.num_beams}: beams are not sampled here; set one of them"
            )
        if self.num_return_sequences > self.num_beams and not self.do_sample:
            raise GenerationError(
                f"num_return_sequences={self.num_return_sequences} with num_beams={self.num_beams}: a search "
                "returns at most num_beams sequences per input; raise num_beams, lower num_return_sequences, "
                "or sample"
            )
        first = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        for name, forced in (
            ("forced_bos_token_id", first),
            ("forced_eos_token_id", self.forced_eos_token_id),
        ):
            if forced and set(forced) <= set(self.suppress_tokens):
                raise GenerationError(
                    f"{name}: every forced token ({', '.join(map(str, forced))}) is also in suppress_tokens, "
                    "so no token is possible there; remove it from one of the two"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> GenerationSettings:
        """Make settings from the contents of a `generation_config.json` or `config.json`.

        Ignores nulls and entries that describe the model. `overrides` replace entries of the same name, with
        the checks of `replace`.

        Raises:
            GenerationError: a value is invalid, or asks for a search that is not implemented.
        """
        given = {name: value for name, value in values.items() if value is not None and name not in overrides}
        for name in INERT_AT:
            if name in given:
                refuse_unless_inert(name, given[name])
        return cls(**{name: given[name] for name in CHECKS if name in given}).replace(**overrides)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> GenerationSettings:
        """Make settings from the fields of a `GenerationConfig`, every one of which must be understood.

        Raises:
            GenerationError: a value is invalid, a field is unknown, or asks for a search that is not
                implemented.
        """
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            if name not in CHECKS:
                refuse_unless_inert(name, value)
        return cls(**{name: value for name, value in given.items() if name in CHECKS})

    @property
    def inferred_padding(self) -> int | None:
        """The token that prompts without an attention mask are padded with, if it has no other meaning."""
        return None if self.pad_token_id in self.eos_token_id else self.pad_token_id

    def replace(self, **changes: Any) -> GenerationSettings:
        """Return a copy with some fields changed; None resets a field to its default.

        Raises:
            GenerationError: a name is unknown or belongs to a search that is not implemented or not chosen, a
                value is invalid, or two values contradict each other.
        """
        known = {name: value for name, value in changes.items() if name in CHECKS}
        for name, value in changes.items():
            if name not in known and value is not None:
                refuse_unless_inert(name, value)
        for new_tokens, total in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
            given = changes.get(new_tokens, getattr(self, new_tokens))
            if given is not None and changes.get(total) is not None:
                raise GenerationError(
                    f"{total}={changes[total]!r} and {new_tokens}={given!r}: the second takes precedence; "
                    f"set one of them and pass {new_tokens}=None to use {total}"
                )
        result = dataclasses.replace(self, **known)
        for name in SAMPLING if not result.do_sample else ():
            if changes.get(name) is not None:
                raise GenerationError(
                    f"{name}={changes[name]!r} affects only sampling: pass do_sample=True, or leave it out"
                )
        for low, high in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            if (
                changes.get(low) is not None
                and changes.get(high) is not None
                and changes[low] > changes[high]
            ):
                raise GenerationError(f"{low}={changes[low]!r} is above {high}={changes[high]!r}")
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, JSON-ready; the inverse of `from_dict`."""
        changed = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return {name: _as_json(value) for name, value in changed.items()}

    def lengths(self, prompt_length: int) -> Lengths:
        """Return the minimum and maximum length of sequences with a prompt of `prompt_length` tokens.

        A minimum above the maximum is no error, as in transformers: generation stops at the maximum.

        Raises:
            GenerationError: the prompt leaves no room for a new token.
        """
        if self.max_new_tokens is not None:
            maximum = prompt_length + self.max_new_tokens
        elif self.max_length is not None:
            maximum = self.max_length
        else:
            maximum = prompt_length + DEFAULT_NEW_TOKENS
            if self.max_position_embeddings is not None:
                maximum = min(maximum, self.max_position_embeddings)
        if prompt_length >= maximum:
            raise GenerationError(
                f"the decoder prompt has {prompt_length} tokens and the longest total length is {maximum}: "
                "raise max_length, or set max_new_tokens, which does not count the prompt"
            )
        minimum = self.min_length if self.min_new_tokens is None else prompt_length + self.min_new_tokens
        return Lengths(prompt_length, minimum, maximum)


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, tuple) else value
