"""Generation settings: reading configurations, changing them, and refusing what cannot be honoured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tbt_compile.errors import GenerationError, TbtError
from tbt_compile.runtime.generation import GenerationSettings, decoder_prompt
from tbt_compile.runtime.generation.fields import CHECKS, INERT_AT, OTHER_SAMPLING, WITHOUT_EFFECT

BART_CNN = {
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "pad_token_id": 1,
    "transformers_version": "5.0.0",
}
OPUS = {
    "bad_words_ids": [[58100]],
    "eos_token_id": [0],
    "forced_eos_token_id": 0,
    "renormalize_logits": True,
    "temperature": 0.7,
    "do_sample": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "d_model": 512,
    "early_stopping": None,
}


def test_from_generation_config() -> None:
    settings = GenerationSettings.from_dict(BART_CNN)
    assert settings.num_beams == 4
    assert settings.early_stopping is True
    assert settings.eos_token_id == (2,)
    assert settings.forced_eos_token_id == (2,)
    assert settings.lengths(1) == (1, 56, 142)
    settings = GenerationSettings.from_dict(OPUS)
    assert settings.bad_words_ids == ((58100,),)
    assert settings.eos_token_id == (0,)
    assert settings.early_stopping is False
    assert settings.renormalize_logits is True


def test_dict_round_trip() -> None:
    settings = GenerationSettings.from_dict(
        {**BART_CNN, **OPUS, "sequence_bias": [[[3, 4], -1.5]], "exponential_decay_length_penalty": [5, 1.1]}
    )
    assert GenerationSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert GenerationSettings().to_dict() == {}


def test_values_are_canonical_and_hashable() -> None:
    settings = GenerationSettings(
        eos_token_id=np.array([2, 3]),  # type: ignore[arg-type]
        num_beams=np.int64(4),
        length_penalty=2,
        sequence_bias={(1, 2): -1},  # type: ignore[arg-type]
    )
    assert settings.eos_token_id == (2, 3)
    assert type(settings.num_beams) is int
    assert type(settings.length_penalty) is float
    assert settings.sequence_bias == (((1, 2), -1.0),)
    assert hash(settings) == hash(settings.replace())


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, torch.tensor])
def test_collections_of_any_type(kind: Any) -> None:
    settings = GenerationSettings(eos_token_id=kind([2, 3]), suppress_tokens=kind([5]))
    assert settings.eos_token_id == (2, 3)
    assert settings.suppress_tokens == (5,)


@pytest.mark.parametrize("kind", [int, np.int32, np.int64, torch.tensor])
def test_integers_of_any_type(kind: Any) -> None:
    settings = GenerationSettings(num_beams=kind(4), eos_token_id=kind(2), pad_token_id=kind(1))
    assert (settings.num_beams, settings.eos_token_id, settings.pad_token_id) == (4, (2,), 1)
    assert type(settings.num_beams) is int


def test_numbers_of_any_type() -> None:
    for kind in (float, np.float32, np.float64, torch.tensor):
        settings = GenerationSettings(length_penalty=kind(0.5), repetition_penalty=kind(2))
        assert (settings.length_penalty, settings.repetition_penalty) == (0.5, 2.0)
        assert type(settings.length_penalty) is float
    pair = GenerationSettings(exponential_decay_length_penalty=(np.int64(4), np.float64(1.5)))
    assert pair.exponential_decay_length_penalty == (4, 1.5)
    assert GenerationSettings(suppress_tokens=range(3)).suppress_tokens == (0, 1, 2)


def test_every_field_of_transformers_is_known() -> None:
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields - {*CHECKS, *OTHER_SAMPLING, *INERT_AT, *WITHOUT_EFFECT} == set()
    groups = (set(CHECKS), set(OTHER_SAMPLING), set(INERT_AT), set(WITHOUT_EFFECT))
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_fields_are_kept_inert_or_refused() -> None:
    kept = GenerationSettings.from_fields({"num_beams": 2, "use_cache": False, "guidance_scale": 1.0})
    assert kept == GenerationSettings(num_beams=2)
    assert GenerationSettings.from_fields({"cache_implementation": "static"}) == GenerationSettings()
    for fields in (
        {"cache_implementation": "quantized"},
        {"return_dict_in_generate": True},
        {"num_beam": 4},
        {"lang_to_id": {"en": 3}},
        {"guidance_scale": np.float32(1.5)},
        {"constraints": np.array([1, 2])},
    ):
        with pytest.raises(GenerationError, match=next(iter(fields))):
            GenerationSettings.from_fields(fields)


def test_replace() -> None:
    base = GenerationSettings.from_dict(BART_CNN)
    assert base.replace(max_new_tokens=20).lengths(1) == (1, 56, 21)
    assert base.replace(max_new_tokens=20, min_new_tokens=5).lengths(2) == (2, 7, 22)
    assert base.replace(forced_bos_token_id=None, eos_token_id=None).eos_token_id == ()
    assert base.replace(max_length=30).lengths(1).maximum == 30
    assert base.replace(max_new_tokens=9).replace(max_new_tokens=None, max_length=30).lengths(1).maximum == 30
    assert base.replace(num_beams=1, do_sample=False, use_cache=True).num_beams == 1
    assert base.num_beams == 4


def test_overrides_win_over_the_configuration() -> None:
    assert GenerationSettings.from_dict({"do_sample": True, "num_beams": 3}, do_sample=False).num_beams == 3
    assert GenerationSettings.from_dict(BART_CNN, num_beams=2).num_beams == 2


def test_default_length() -> None:
    assert GenerationSettings().lengths(3).maximum == 23
    assert GenerationSettings(max_position_embeddings=12).lengths(3).maximum == 12
    assert GenerationSettings(max_position_embeddings=12, max_new_tokens=30).lengths(3).maximum == 33


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beam": 4}, "num_beam'.*Did you mean num_beams"),
        ({"num_beams": 0}, "num_beams=0: expected an integer of at least 1"),
        ({"num_beams": True}, "num_beams=True: expected an integer"),
        ({"num_beams": 2.0}, "num_beams=2.0: expected an integer"),
        ({"num_beams": np.True_}, "num_beams=True: expected an integer"),
        ({"length_penalty": 10**400}, "that a float can hold"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"min_length": -1}, "min_length=-1"),
        ({"length_penalty": "2"}, "length_penalty='2': expected a number"),
        ({"length_penalty": [2]}, "length_penalty=.*expected a number"),
        ({"length_penalty": float("nan")}, "length_penalty=nan: expected a finite number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: expected a number above zero"),
        ({"early_stopping": "always"}, "early_stopping='always'"),
        ({"renormalize_logits": 1}, "renormalize_logits=1: expected True or False"),
        ({"eos_token_id": [-1]}, "eos_token_id=-1"),
        ({"eos_token_id": "2"}, "eos_token_id='2'"),
        ({"bad_words_ids": [5]}, "bad_words_ids: 5 is not a non-empty list"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"bad_words_ids": 5}, "bad_words_ids=5: expected a list"),
        ({"sequence_bias": [[1, 2, 3]]}, "sequence_bias"),
        ({"exponential_decay_length_penalty": 1.5}, "exponential_decay_length_penalty"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 with num_beams=2"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 with num_beams=1"),
        ({"max_length": 20, "max_new_tokens": 10}, "max_length=20 and max_new_tokens=10"),
        ({"min_length": 20, "min_new_tokens": 10}, "min_length=20 and min_new_tokens=10"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens=4 is above max_new_tokens=3"),
        ({"max_length": 3, "min_length": 4}, "min_length=4 is above max_length=3"),
        ({"forced_bos_token_id": 5, "suppress_tokens": [4, 5]}, "forced_bos_token_id.*suppress_tokens"),
        ({"forced_eos_token_id": [5, 4], "suppress_tokens": [4, 5]}, "forced_eos_token_id.*suppress_tokens"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True with num_beams=2: beams are not sampled"),
        ({"temperature": 0.7}, "temperature=0.7 affects only sampling"),
        ({"num_beam_groups": 2}, "num_beam_groups=2"),
        ({"stop_strings": ["."]}, "stop_strings"),
    ],
    ids=str,
)
def test_bad_changes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        GenerationSettings().replace(**changes)


def test_max_length_cannot_be_shadowed() -> None:
    with pytest.raises(GenerationError, match="pass max_new_tokens=None"):
        GenerationSettings(max_new_tokens=5).replace(max_length=30)


@pytest.mark.parametrize(
    "entry", [{"do_sample": True}, {"num_beam_groups": 4}, {"guidance_scale": 1.5}], ids=str
)
def test_configuration_for_another_search(entry: dict[str, Any]) -> None:
    with pytest.raises(TbtError, match=next(iter(entry))):
        GenerationSettings.from_dict({**BART_CNN, **entry})


def test_prompt() -> None:
    settings = GenerationSettings(decoder_start_token_id=2)
    assert decoder_prompt(settings, 2).tolist() == [[2], [2]]
    assert decoder_prompt(settings, 2, [[5], [6]]).tolist() == [[2, 5], [2, 6]]
    assert decoder_prompt(settings, 2, np.array([[2, 5], [6, 7]], np.int32)).tolist() == [[2, 5], [6, 7]]
    assert decoder_prompt(GenerationSettings(bos_token_id=7), 1).tolist() == [[7]]
    assert decoder_prompt(GenerationSettings(decoder_start_token_id=[7, 8]), 2).tolist() == [[7], [8]]
    assert decoder_prompt(settings, 2).dtype == np.int64


@pytest.mark.parametrize(
    ("settings", "ids", "message"),
    [
        ({}, None, "neither decoder_start_token_id nor bos_token_id"),
        ({"decoder_start_token_id": [1, 2, 3]}, None, "has 3 ids"),
        ({"bos_token_id": 1}, [[5]], r"shape \[1, 1\]: expected \[2, length\]"),
        ({"bos_token_id": 1}, [5, 6], "expected integers"),
        ({"bos_token_id": 1}, [[5.0], [6.0]], "expected integers"),
        ({"bos_token_id": 1}, [[], []], "length at least 1"),
        ({"bos_token_id": 1}, [[5], [-6]], "negative token id -6"),
    ],
)
def test_bad_prompts(settings: dict[str, Any], ids: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        decoder_prompt(GenerationSettings(**settings), 2, ids)
