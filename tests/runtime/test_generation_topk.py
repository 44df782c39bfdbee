"""The selection of the best continuations against a full sort, and log-softmax against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rankings import SETTINGS, scores_of_beams

from tbt_compile.runtime.generation.ranking import log_softmax
from tbt_compile.runtime.generation.topk import best_continuations


def brute_force(log_probs: np.ndarray, beam_scores: np.ndarray, k: int) -> list[np.ndarray]:
    totals = (log_probs + beam_scores[:, :, None]).reshape(len(log_probs), -1)
    places = np.argsort(-totals, axis=1, kind="stable")[:, :k]
    return [np.take_along_axis(totals, places, axis=1), *np.divmod(places, log_probs.shape[2])]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    vocabulary=st.sampled_from([4, 48, 511, 512, 513, 1024, 1500]),
    **SETTINGS,
)
def test_equals_a_stable_sort(
    inputs: int, beams: int, vocabulary: int, k: int, levels: int, banned: float, seed: int
) -> None:
    log_probs, beam_scores = scores_of_beams(inputs, beams, vocabulary, levels, banned, seed)
    k = min(k, beams * vocabulary)
    for found, expected in zip(
        best_continuations(log_probs, beam_scores, k), brute_force(log_probs, beam_scores, k), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_large_vocabulary() -> None:
    log_probs = np.random.default_rng(0).standard_normal((2, 4, 50265)).astype(np.float32)
    beam_scores = np.array([[0, -1, -2, -3], [0, -1e9, -1e9, -1e9]], np.float32)
    found = best_continuations(log_probs, beam_scores, 8)
    for one, expected in zip(found, brute_force(log_probs, beam_scores, 8), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert (found.beams[1] == 0).all()


def test_nan_is_reported() -> None:
    log_probs = np.zeros((2, 2, 600), np.float32)
    log_probs[1, 1, 599] = np.nan
    scores = best_continuations(log_probs, np.zeros((2, 2), np.float32), 3).scores
    assert np.isnan(scores).tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
def test_log_softmax_is_that_of_torch(scale: float) -> None:
    logits = np.random.default_rng(1).standard_normal((4, 50265)).astype(np.float32) * np.float32(scale)
    logits[2, :100] = -np.inf
    expected = torch.log_softmax(torch.from_numpy(logits.copy()), dim=-1).numpy()
    log_softmax(logits)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=4e-6)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).all()
