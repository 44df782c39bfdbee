"""Compiled models: generation settings, sources of any size, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import Case, assert_rows_do_not_depend_on_the_batch, eager_tokens, sources
from models import LONG_POSITIONS as POSITIONS
from models import PAD, VOCABULARY

from tbt_compile.errors import GenerationError

IDS, MASK = sources(PAD)


@pytest.mark.parametrize(
    "settings",
    [
        {},  # the model's own generation config
        {"num_beams": 1, "max_new_tokens": 6},
        {"num_beams": 1, "min_new_tokens": 10, "max_new_tokens": 12, "no_repeat_ngram_size": 2},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 3, "forced_bos_token_id": 5, "forced_eos_token_id": 2, "max_new_tokens": 8},
        {"num_beams": 2, "repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2},
        {"num_beams": 2, "max_new_tokens": None, "max_length": 7},
    ],
)
def test_settings_mean_what_they_mean_in_transformers(case: Case, settings: dict[str, Any]) -> None:
    expected = eager_tokens(case.eager, IDS, MASK, **settings)
    assert np.array_equal(case.compiled.generate(IDS, MASK, **settings), expected)


@pytest.mark.parametrize("beams", [1, 2])
def test_long_sources_and_long_outputs(case: Case, beams: int) -> None:
    ids, mask = sources(PAD, rows=2, longest=POSITIONS)
    settings = {"num_beams": beams, "min_new_tokens": 135, "max_new_tokens": 135}
    expected = eager_tokens(case.eager, ids, mask, **settings)
    assert np.array_equal(case.compiled.generate(ids, mask, **settings), expected)


@pytest.mark.parametrize(("rows", "longest"), [(1, 1), (7, 5), (1, 64), (2, 65)])
def test_any_batch_and_length(case: Case, rows: int, longest: int) -> None:
    ids, mask = sources(PAD, rows, longest)
    expected = eager_tokens(case.eager, ids, mask)
    assert np.array_equal(case.compiled.generate(ids, mask), expected)
    if mask.all():
        assert np.array_equal(case.compiled.generate(ids), expected)


def test_padding_over_the_end_of_a_word_changes_nothing(case: Case) -> None:
    assert_rows_do_not_depend_on_the_batch(case.compiled, PAD, padding=(51, 52, 100), num_beams=2)


def test_a_prompt_of_several_tokens(case: Case) -> None:
    prompt = np.array([[2, 7, 8]] * len(IDS))
    expected = eager_tokens(case.eager, IDS, MASK, decoder_input_ids=torch.tensor(prompt))
    assert np.array_equal(case.compiled.generate(IDS, MASK, decoder_input_ids=prompt), expected)


def test_tokens_are_reported_as_they_come(case: Case) -> None:
    seen: list[np.ndarray[Any, Any]] = []
    output = case.compiled.generate(IDS, MASK, num_beams=1, on_tokens=lambda new: seen.append(new.copy()))
    assert np.array_equal(np.stack(seen, axis=1), output[:, 1:])


def test_lists_and_tensors_are_taken_too(case: Case) -> None:
    expected = case.compiled.generate(IDS, MASK)
    assert np.array_equal(case.compiled.generate(IDS.tolist(), MASK.tolist()), expected)
    assert np.array_equal(case.compiled.generate(torch.tensor(IDS), torch.tensor(MASK)), expected)
    assert np.array_equal(case.compiled.generate(IDS.astype(np.int32), MASK.astype(bool)), expected)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (
            [[3, VOCABULARY]],
            None,
            f"input_ids holds 3 to {VOCABULARY}: expected ids from 0 to {VOCABULARY - 1}",
        ),
        ([[3, -1]], None, "input_ids holds -1 to 3"),
        ([3, 4], None, r"input_ids has shape \[2\] and type int64: expected integers \[batch, length\]"),
        ([[]], None, r"input_ids has shape \[1, 0\]"),
        (np.zeros((0, 4), np.int64), None, r"input_ids has shape \[0, 4\]"),
        ([[3.0, 4.0]], None, "and type float64"),
        ([["a", "b"]], None, "input_ids has shape .* and type <U1"),
        ([[3, 4], [5]], None, "is not an array .*: pad shorter sources on the right"),
        ([[3, 4]], [[1]], r"attention_mask has shape \[1, 1\]: expected that of input_ids, \[1, 2\]"),
        ([[3, 4], [5, 6]], [[1, 1], [0, 0]], "attention_mask masks every token of a source"),
        (
            np.full((1, POSITIONS + 1), 3),
            None,
            f"has {POSITIONS + 1} tokens, and the model has {POSITIONS} pos",
        ),
    ],
)
def test_sources_that_do_not_fit(case: Case, ids: Any, mask: Any, message: str) -> None:
    for run in (case.compiled.generate, case.compiled.session):
        with pytest.raises(GenerationError, match=message):
            run(ids, mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beam": 4}, "unknown generation setting 'num_beam'.*Did you mean num_beams"),
        ({"num_beam_groups": 2}, "only greedy search, plain beam search and sampling"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected an integer of at least 1"),
        ({"num_beams": 1, "num_return_sequences": 2}, "at most num_beams sequences"),
        (
            {"max_new_tokens": POSITIONS + 1, "min_new_tokens": POSITIONS + 1},
            "more than the model's 150 positions",
        ),
        ({"decoder_input_ids": [[2]]}, r"decoder_input_ids has shape \[1, 1\]: expected \[5, length\]"),
        ({"decoder_input_ids": [[2, VOCABULARY]] * 5}, f"decoder token {VOCABULARY}: expected ids from 0 to"),
        ({"decoder_start_token_id": 10**9}, "decoder token 1000000000: expected ids from 0 to 95"),
        ({"num_beams": 2, "on_tokens": print}, "on_tokens needs num_beams=1"),
    ],
)
def test_settings_that_do_not_fit(case: Case, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        case.compiled.generate(IDS, MASK, **settings)
    assert case.compiled.generate(IDS, MASK).shape[0] == len(IDS)  # an error leaves nothing behind


@pytest.mark.parametrize("beams", [1, 3])
def test_lengths_as_people_have_them(t5_case: Case, beams: int) -> None:
    ids, mask = sources(0)
    first = t5_case.compiled.generate(ids, mask, num_beams=1, max_new_tokens=4)
    ends = sorted({int(token) for token in first[:, 1:].ravel()})
    settings: dict[str, Any] = {"num_beams": beams, "eos_token_id": ends, "early_stopping": True}
    expected = t5_case.compiled.generate(ids, mask, max_new_tokens=90, **settings)
    assert expected.shape[1] < 90, "every output has to end early"
    for length in ({"max_new_tokens": 10**9}, {"max_length": 10**12}, {"max_length": int(1e30)}):
        assert np.array_equal(t5_case.compiled.generate(ids, mask, **length, **settings), expected)


def test_results_of_a_session_stay(case: Case) -> None:
    session = case.compiled.session(IDS, MASK)
    logits = session.step([[2]] * 5)
    kept = logits.copy()
    session.step([[7]] * 5)
    session.reorder([4, 4, 0])
    assert session.step([[9]] * 3).shape == (3, VOCABULARY)
    assert np.array_equal(logits, kept)
    hidden = case.compiled.encode(IDS, MASK)
    kept = hidden.copy()
    case.compiled.encode(IDS[::-1], MASK[::-1])
    assert np.array_equal(hidden, kept)


def test_a_session_does_not_see_what_its_caller_changes(case: Case) -> None:
    mask = MASK.copy()
    session = case.compiled.decoder_session(case.compiled.encode(IDS, MASK), mask)
    mask[:] = 1
    session.step([[2]] * 5)
    session.reorder([3, 4])
    other = case.compiled.session(IDS, MASK)
    other.step([[2]] * 5)
    other.reorder([3, 4])
    assert np.array_equal(session.step([[7], [7]]), other.step([[7], [7]]))


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda session: session.step([[2]] * 4), r"tokens has shape \[4, 1\]: expected \[5, tokens\]"),
        (lambda session: session.step(np.zeros((5, 0), np.int64)), r"tokens has shape \[5, 0\]"),
        (lambda session: session.step([[2.0]] * 5), "tokens: float64"),
        (
            lambda session: session.step([[VOCABULARY]] * 5),
            f"decoder token {VOCABULARY}: expected ids from 0",
        ),
        (lambda session: session.step([[2] * 200] * 5), "200 decoder tokens are more than the model's 150"),
        (lambda session: session.reorder([0, 5]), "rows holds 0 to 5: expected indices from 0 to 4"),
        (lambda session: session.reorder([-1]), "rows holds -1 to -1"),
        (lambda session: session.reorder([]), r"rows is float64 of shape \[0\]"),
        (lambda session: session.reorder([[0]]), r"of shape \[1, 1\]: expected integers \[new rows\]"),
    ],
)
def test_misuse_of_a_session(case: Case, misuse: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        misuse(case.compiled.session(IDS, MASK))


@pytest.mark.parametrize(
    ("shape", "dtype", "mask", "message"),
    [
        ((2, 3, 31), np.float32, (2, 3), r"expected float32 \[batch, length, 32\]"),
        ((2, 3, 32), np.float64, (2, 3), "the output is float64"),
        ((2, 3, 32), np.float32, (2, 4), r"with attention_mask of shape \[2, 4\]"),
        ((1, POSITIONS + 1, 32), np.float32, (1, POSITIONS + 1), "and the model has 150 positions"),
    ],
)
def test_encoder_outputs_that_do_not_fit(
    case: Case, shape: tuple[int, ...], dtype: Any, mask: tuple[int, ...], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        case.compiled.decoder_session(np.zeros(shape, dtype), np.ones(mask, np.int64))


def test_masks_are_zeros_and_ones(case: Case) -> None:
    with pytest.raises(GenerationError, match="other values than 0 and 1"):
        case.compiled.generate(IDS, MASK * 2)


def test_times_need_a_clock(case: Case) -> None:
    with pytest.raises(GenerationError, match=r"lower\(clock=True\)"):
        case.compiled.times()
