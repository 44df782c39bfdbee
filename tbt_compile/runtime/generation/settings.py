"""Generation settings: the fields of transformers' `GenerationConfig` that greedy and beam search use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from tbt_compile.errors import GenerationError, did_you_mean
from tbt_compile.runtime.generation import validation

DEFAULT_NEW_TOKENS = 20
"""Tokens generated when no length is set, as in transformers."""

_CHECKS = {
    "num_beams": validation.count,
    "num_return_sequences": validation.count,
    "max_new_tokens": validation.count,
    "max_length": validation.count,
    "min_new_tokens": validation.integer,
    "min_length": validation.integer,
    "length_penalty": validation.number,
    "early_stopping": validation.early_stopping,
    "no_repeat_ngram_size": validation.integer,
    "encoder_no_repeat_ngram_size": validation.integer,
    "repetition_penalty": validation.positive_number,
    "encoder_repetition_penalty": validation.positive_number,
    "bad_words_ids": validation.token_sequences,
    "sequence_bias": validation.sequence_bias,
    "forced_bos_token_id": validation.integer,
    "forced_eos_token_id": validation.token_ids,
    "suppress_tokens": validation.token_ids,
    "begin_suppress_tokens": validation.token_ids,
    "exponential_decay_length_penalty": validation.start_and_factor,
    "remove_invalid_values": validation.flag,
    "renormalize_logits": validation.flag,
    "decoder_start_token_id": validation.id_or_ids,
    "bos_token_id": validation.integer,
    "eos_token_id": validation.token_ids,
    "pad_token_id": validation.integer,
    "max_position_embeddings": validation.count,
}
# Settings of transformers that are not implemented here, with the values that have no effect in transformers
# either. Other values are refused: ignoring them would silently change the output.
_INERT: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "use_cache": (True, False),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "token_healing": (False,),
    "low_memory": (False,),
    "constraints": (),
    "force_words_ids": (),
    "dola_layers": (),
    "watermarking_config": (),
    "stop_strings": (),
    "max_time": (),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
}
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


class Lengths(NamedTuple):
    """Lengths of sequences in tokens, prompt included."""

    prompt: int
    minimum: int
    maximum: int


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of greedy and beam search; all fields have their transformers meaning.

    Lengths count decoder tokens: `max_new_tokens` and `min_new_tokens` without the decoder prompt,
    `max_length` and `min_length` with it. The former take precedence. Fields that accept one id or several
    (`eos_token_id`, `forced_eos_token_id`, ...) hold a tuple, empty if unset. `decoder_start_token_id` is
    one id, or one per row. `max_position_embeddings` only caps the default length.

    >>> GenerationSettings.from_dict({"num_beams": 4, "eos_token_id": 2, "d_model": 768}).eos_token_id
    (2,)
    >>> GenerationSettings().replace(num_beams=4, max_new_tokens=60).to_dict()
    {'num_beams': 4, 'max_new_tokens': 60}

    Raises:
        GenerationError: a value has the wrong type or is out of range, num_return_sequences exceeds
            num_beams, or a token is both forced and suppressed.
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            canonical = field.default if value is None else _CHECKS[field.name](field.name, value)
            object.__setattr__(self, field.name, canonical)
        if self.num_return_sequences > self.num_beams:
            raise GenerationError(
                f"num_return_sequences={self.num_return_sequences} with num_beams={self.num_beams}: a search "
                "returns at most num_beams sequences per input; raise num_beams or lower num_return_sequences"
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

        Ignores nulls and entries that describe the model or matter only for sampling. `overrides` replace
        entries of the same name, with the checks of `replace`.

        Raises:
            GenerationError: a value is invalid, or asks for something other than greedy or beam search.
        """
        given = {name: value for name, value in values.items() if value is not None and name not in overrides}
        for name in _INERT:
            if name in given:
                _refuse_unless_inert(name, given[name])
        return cls(**{name: given[name] for name in _CHECKS if name in given}).replace(**overrides)

    def replace(self, **changes: Any) -> GenerationSettings:
        """Return a copy with some fields changed; None resets a field to its default.

        Raises:
            GenerationError: a name is unknown or belongs to a search that is not implemented, a value is
                invalid, or two values contradict each other.
        """
        known = {name: value for name, value in changes.items() if name in _CHECKS}
        for name, value in changes.items():
            if name not in known and value is not None:
                _refuse_unless_inert(name, value)
        for new_tokens, total in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
            given = changes.get(new_tokens, getattr(self, new_tokens))
            if given is not None and changes.get(total) is not None:
                raise GenerationError(
                    f"{total}={changes[total]!r} and {new_tokens}={given!r}: the second takes precedence; "
                    f"set one of them and pass {new_tokens}=None to use {total}"
                )
        result = dataclasses.replace(self, **known)
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


def _refuse_unless_inert(name: str, value: Any) -> None:
    if name in _INERT:
        if value in _INERT[name]:
            return
        raise GenerationError(
            f"{name}={value!r}: only greedy search and plain beam search are available here; leave {name} out"
        )
    if name in _SAMPLING:
        raise GenerationError(
            f"{name}={value!r} affects only sampling, and only greedy and beam search are available here"
        )
    raise GenerationError(
        f"unknown generation setting {name!r}: expected one of {', '.join(sorted(_CHECKS))}."
        + did_you_mean(name, _CHECKS)
    )


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, tuple) else value
