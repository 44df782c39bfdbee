"""Greedy and beam search give the tokens of transformers' `generate`, padding included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.generation_models import VOCABULARY, both, ends

MODELS = ("bart", "mbart", "marian", "t5")
# What transformers says about lengths that it cannot honour, or that were left to it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Unfeasible length constraints", "ignore:Using the model-agnostic"
)


def assert_same(name: str, **arguments: Any) -> np.ndarray:
    expected, found = both(name, **arguments)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_beams", [1, 2, 5])
def test_batch_of_padded_inputs(name: str, num_beams: int) -> None:
    found = assert_same(name, size=6, num_beams=num_beams, max_new_tokens=14, eos_token_id=list(ends(name)))
    ended = np.isin(found[:, 1:-1], ends(name)).any(axis=1)
    assert ended.any(), "the case is only worth something when some sequence ends early"


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_stopping_rules(name: str, early_stopping: bool | str, length_penalty: float) -> None:
    assert_same(
        name,
        size=4,
        num_beams=3,
        num_return_sequences=3,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        max_new_tokens=12,
        eos_token_id=list(ends(name)),
    )


LENGTHS: list[dict[str, Any]] = [
    {},
    {"max_length": 9},
    {"max_new_tokens": 1},
    {"max_new_tokens": 9, "min_new_tokens": 9},
    {"max_length": 12, "min_length": 7},
    {"max_new_tokens": 12, "min_length": 7},
    {"max_length": 12, "min_new_tokens": 6},
    {"max_new_tokens": 3, "min_length": 30},
]
PROMPTS = [None, [[2, 9, 8], [2, 7, 6]], [[9, 8], [7, 6]], [[9, 8], [2, 6]]]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS, ids=["start", "given", "without start", "start in one row"])
def test_lengths_and_prompts(num_beams: int, lengths: dict[str, Any], prompt: list[list[int]] | None) -> None:
    found = assert_same(
        "mbart",
        size=2,
        num_beams=num_beams,
        decoder_input_ids=prompt,
        eos_token_id=list(ends("mbart")),
        **lengths,
    )
    if prompt == [[9, 8], [7, 6]]:
        assert found[:, :3].tolist() == [[2, 9, 8], [2, 7, 6]]


RULES: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"encoder_repetition_penalty": 1.5},
    {"bad_words_ids": [[6], [18, 18], [12], [12, 12, 12]]},
    {"sequence_bias": [[[6], -4.0], [[18], 2.0], [[12, 12], 3.0], [[18, 12], -1.0]]},
    {"forced_bos_token_id": 9},
    {"forced_bos_token_id": 9, "forced_eos_token_id": 2},
    {"forced_eos_token_id": 2},
    {"suppress_tokens": [6, 12, 18]},
    {"begin_suppress_tokens": [6, 12, 18]},
    {"begin_suppress_tokens": [6, 12, 18], "forced_bos_token_id": 9},
    {"exponential_decay_length_penalty": (2, 1.3)},
    {"exponential_decay_length_penalty": (4, 0.8)},
    {"remove_invalid_values": True, "suppress_tokens": [6]},
    {"renormalize_logits": True, "bad_words_ids": [[1]], "suppress_tokens": [6, 12]},
    {"no_repeat_ngram_size": 3, "min_new_tokens": 5, "forced_bos_token_id": 0, "forced_eos_token_id": 2},
]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_rules(num_beams: int, rules: dict[str, Any]) -> None:
    assert_same(
        "bart", size=4, num_beams=num_beams, max_new_tokens=10, eos_token_id=list(ends("bart")), **rules
    )


def test_rules_change_something() -> None:
    plain, _ = both("bart", size=4, max_new_tokens=10)
    for rules in RULES:
        changed, _ = both("bart", size=4, max_new_tokens=10, eos_token_id=list(ends("bart")), **rules)
        assert changed.shape != plain.shape or (changed != plain).any(), rules


@pytest.mark.parametrize("pad", [0, 1, 7])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_token(pad: int, num_beams: int) -> None:
    assert_same(
        "t5", size=6, num_beams=num_beams, max_new_tokens=10, eos_token_id=list(ends("t5")), pad_token_id=pad
    )


@pytest.mark.parametrize("num_beams", [1, 3])
def test_no_end_token(num_beams: int) -> None:
    found = assert_same("bart", num_beams=num_beams, max_new_tokens=7, eos_token_id=None)
    assert found.shape == (3, 8)


def test_start_token_per_row() -> None:
    found = assert_same("mbart", num_beams=2, max_new_tokens=5, decoder_start_token_id=[5, 6, 7])
    assert found[:, 0].tolist() == [5, 6, 7]


def _optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.none(), values)


TOKEN = st.integers(4, VOCABULARY - 1)
ARGUMENTS = st.fixed_dictionaries(
    {
        "num_beams": st.integers(1, 5),
        "max_new_tokens": st.integers(3, 12),
        "min_new_tokens": _optional(st.integers(0, 3)),
        "eos": st.sampled_from(["one", "two", "three", "none"]),
        "no_repeat_ngram_size": _optional(st.integers(1, 3)),
        "repetition_penalty": _optional(st.sampled_from([0.7, 1.4])),
        "bad_words_ids": _optional(st.lists(st.lists(TOKEN, min_size=1, max_size=2), min_size=1, max_size=3)),
        "suppress_tokens": _optional(st.lists(TOKEN, min_size=1, max_size=3)),
        "renormalize_logits": _optional(st.just(True)),
        "forced_eos_token_id": _optional(st.just(2)),
        "size": st.integers(1, 4),
        "seed": st.integers(0, 9),
    }
)
BEAM_ARGUMENTS = st.fixed_dictionaries(
    {
        "length_penalty": st.sampled_from([-1.5, 0.0, 0.7, 1.0, 2.0]),
        "early_stopping": st.sampled_from([False, True, "never"]),
        "num_return_sequences": st.integers(1, 5),
    }
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(name=st.sampled_from(MODELS), arguments=ARGUMENTS, beam_arguments=BEAM_ARGUMENTS)
def test_sampled_settings(name: str, arguments: dict[str, Any], beam_arguments: dict[str, Any]) -> None:
    given_ = {key: value for key, value in arguments.items() if value is not None}
    first, second = ends(name)
    given_["eos_token_id"] = {
        "one": first,
        "two": [first, second],
        "three": [first, second, 2],
        "none": None,
    }[given_.pop("eos")]
    if arguments["num_beams"] > 1:
        count = min(beam_arguments["num_return_sequences"], arguments["num_beams"])
        given_ |= beam_arguments | {"num_return_sequences": count}
    assert_same(name, **given_)
