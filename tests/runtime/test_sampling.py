"""Sampling: transformers' distribution, the same samples for a seed in any batch, and clear errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import Case, sources
from hypothesis import given
from hypothesis import strategies as st
from models import PAD, VOCABULARY
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import GenerationSettings, Scores
from tbt_compile.runtime.generation.sampling import Doubles, Sampler, exponential, kept

IDS, MASK = sources(PAD)
SOURCES = [np.random.default_rng(n).integers(3, VOCABULARY, 4 * n + 1).tolist() for n in range(8)]
HOT: dict[str, Any] = {"num_beams": 1, "do_sample": True, "temperature": 3.0, "max_new_tokens": 12}


def settings(**changes: Any) -> GenerationSettings:
    return GenerationSettings(do_sample=True, **changes)


def probabilities(scores: Scores, chosen: GenerationSettings) -> Doubles:
    """The distribution of transformers' warpers, in float64: float32 sums may cut elsewhere."""
    warped = torch.from_numpy(scores / np.float32(chosen.temperature))[None].double()
    ids = torch.zeros(1, 1, dtype=torch.int64)
    if chosen.top_k:
        warped = TopKLogitsWarper(chosen.top_k)(ids, warped)
    if chosen.top_p < 1:
        warped = TopPLogitsWarper(chosen.top_p)(ids, warped)
    if chosen.min_p:
        warped = MinPLogitsWarper(chosen.min_p)(ids, warped)
    return warped.softmax(-1)[0].numpy()


@given(
    size=st.integers(1, 300),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    banned=st.sampled_from([0.0, 0.5]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 4.0]),
    top_k=st.sampled_from([0, 1, 5, 50, 1000]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.9]),
)
def test_the_distribution_is_that_of_transformers(
    size: int, seed: int, spread: float, banned: float, **changes: Any
) -> None:
    generator, chosen = np.random.default_rng(seed), settings(**changes)
    scores = (spread * generator.standard_normal(size)).astype(np.float32)
    scores[generator.random(size) < banned] = -np.inf
    scores[generator.integers(size)] = 0
    expected = probabilities(scores, chosen)
    tokens, weights = kept(scores, chosen)
    found = np.zeros(size)
    found[tokens] = weights / weights.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)
    # The same uniform numbers draw the same tokens.
    sampler, cumulative = Sampler(chosen, np.arange(1)), expected.cumsum()
    for uniform in generator.random(20):
        assert sampler._draw(scores, uniform) == np.searchsorted(cumulative, uniform, side="right")


def test_frequencies_of_twenty_thousand_draws() -> None:
    scores = np.random.default_rng(1).standard_normal(12).astype(np.float32)
    chosen = settings(temperature=1.3, top_p=0.95, seed=5)
    expected = 20_000 * probabilities(scores, chosen)
    sampler, rows = Sampler(chosen, np.arange(200)), np.arange(200)
    draws = np.concatenate([sampler(np.tile(scores, (200, 1)), rows) for _ in range(100)])
    counts = np.bincount(draws, minlength=12)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # chi-square: mean n, variance 2 n


def test_exponentials_are_right_to_two_units_in_the_last_place() -> None:
    x = np.concatenate([-np.random.default_rng(1).exponential(30, 20_000), [0.0, -1e-300, -700.0]])
    exact = np.exp(x.astype(np.longdouble))
    assert (np.abs(exponential(x) - exact) / np.spacing(exact.astype(np.float64))).max() <= 2
    assert exponential(np.array([-1e6, -np.inf])).max() < 1e-300


def test_a_seed_repeats_samples_and_another_does_not(case: Case) -> None:
    first, again, other = (case.compiled.generate(IDS, MASK, **HOT, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    free = [case.compiled.generate(IDS, MASK, **HOT).tobytes() for _ in range(4)]
    assert len(set(free)) > 1


def test_a_row_is_sampled_the_same_in_any_batch(case: Case) -> None:
    expected = case.compiled.generate_many(SOURCES, **HOT, seed=3, num_return_sequences=2, batch_size=1)
    for options in ({}, {"batch_size": 3, "num_workers": 2}, {"batch_tokens": 70}):
        found = case.compiled.generate_many(SOURCES, **HOT, seed=3, num_return_sequences=2, **options)
        assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    assert len(expected) == 2 * len(SOURCES)
    assert any(not np.array_equal(expected[2 * n], expected[2 * n + 1]) for n in range(len(SOURCES)))


def test_sequences_of_one_input(case: Case) -> None:
    several = case.compiled.generate(IDS, MASK, **HOT, seed=4, num_return_sequences=3)
    assert len(several) == 3 * len(IDS)
    assert len({row.tobytes() for row in several}) > len(IDS)


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-6}, {"min_p": 1.0}], ids=str
)
def test_the_narrowest_distribution_is_greedy_search(case: Case, narrow: dict[str, float]) -> None:
    greedy = case.compiled.generate(IDS, MASK, num_beams=1, max_new_tokens=12)
    assert np.array_equal(case.compiled.generate(IDS, MASK, **{**HOT, **narrow}), greedy)


def test_rules_and_reports_work_as_in_greedy_search(case: Case) -> None:
    seen: list[np.ndarray[Any, Any]] = []
    output = case.compiled.generate(
        IDS, MASK, **HOT, seed=6, no_repeat_ngram_size=1, min_new_tokens=12, on_tokens=seen.append
    )
    assert np.array_equal(np.stack(seen, axis=1), output[:, 1:])
    assert all(len(set(row[1:])) == 12 for row in output.tolist())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 2}, "do_sample=True with num_beams=2: beams are not sampled"),
        ({"temperature": 0}, "temperature=0: expected a number above zero"),
        ({"top_p": 1.5}, "top_p=1.5: expected a number from 0 to 1"),
        ({"min_p": -1}, "min_p=-1: expected a number from 0 to 1"),
        ({"top_k": 1.5}, "top_k=1.5: expected an integer"),
        ({"seed": -1}, "seed=-1: expected an integer of at least 0"),
        ({"typical_p": 0.9}, "typical_p=0.9: sampling knows temperature, top_k, top_p, min_p, seed"),
        ({"do_sample": False, "seed": 1}, "seed=1 affects only sampling: pass do_sample=True"),
        ({"suppress_tokens": range(96)}, "there is no distribution to sample from"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(case: Case, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        case.compiled.generate(IDS, MASK, **{"num_beams": 1, "do_sample": True, **changes})


def test_scores_that_are_no_distribution() -> None:
    sampler = Sampler(settings(), np.arange(1))
    row = np.arange(1)
    assert sampler(np.array([[0.0, np.nan, 1.0]], np.float32), row) == [1]  # the search names the NaN
    for damaged in ([-np.inf, -np.inf], [0.0, np.inf]):
        with pytest.raises(GenerationError, match="there is no distribution to sample from"):
            sampler(np.array([damaged], np.float32), row)


@pytest.mark.parametrize("temperature", [1e-38, 1.71e-38, 1e-40, 1e-45, 1e-320])
@pytest.mark.parametrize("scores", [[1.0, 3.0, 2.0, -np.inf], [-5.0, -3.0, -9.0], [3e38, 2.9e38, 0.0]])
@pytest.mark.parametrize("limits", [{}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 2}])
def test_a_temperature_near_0_leaves_the_best_token(
    temperature: float, scores: list[float], limits: dict[str, Any]
) -> None:
    given = np.array(scores, np.float32)
    tokens, weights = kept(given, settings(temperature=temperature, **limits))
    assert tokens[weights > 1e-300].tolist() == [int(given.argmax())]
