"""Ranking the tokens of a vocabulary: the compiled functions against NumPy's, on every x86 ISA here."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import isa_of, runnable
from rankings import SETTINGS, scores_of_beams

from tbt_compile.codegen.kernels.float_ops.vocabulary import search_functions
from tbt_compile.codegen.library.library import compile_functions
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.runtime.bound_library import BoundLibrary
from tbt_compile.runtime.compiled_ranking import CompiledRanking
from tbt_compile.runtime.generation.topk import best_continuations

CPUS = runnable("haswell")


@cache
def vocabulary(cpu: str) -> CompiledRanking:
    library = compile_functions(search_functions(isa_of(cpu)), parse_target(cpu))
    return CompiledRanking(BoundLibrary(library, {}, {}, {}, {}))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    cpu=st.sampled_from(CPUS),
    size=st.sampled_from([1, 4, 48, 63, 64, 65, 500, 1500]),
    **SETTINGS,
)
def test_the_best_are_those_of_numpy(
    cpu: str, inputs: int, beams: int, size: int, k: int, levels: int, banned: float, seed: int
) -> None:
    log_probs, beam_scores = scores_of_beams(inputs, beams, size, levels, banned, seed)
    k = min(k, beams * size)
    found = vocabulary(cpu).best(log_probs, beam_scores, k)
    for one, expected in zip(found, best_continuations(log_probs, beam_scores, k), strict=True):
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("place", [0, 70, 599])
def test_nan_is_reported(cpu: str, place: int) -> None:
    log_probs = np.zeros((2, 2, 600), np.float32)
    log_probs[1, 1, place] = np.nan
    scores = vocabulary(cpu).best(log_probs, np.zeros((2, 2), np.float32), 3).scores
    assert np.isnan(scores).tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
def test_log_softmax_is_that_of_torch(cpu: str, scale: float) -> None:
    logits = np.random.default_rng(1).standard_normal((4, 50265)).astype(np.float32) * np.float32(scale)
    logits[2, :100] = -np.inf
    exact = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
    vocabulary(cpu).log_softmax(logits)
    np.testing.assert_allclose(logits, exact, rtol=3e-7, atol=3e-6)
    assert (logits.argmax(axis=1) == exact.argmax(axis=1)).all()


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [3, 100])
def test_a_row_that_is_no_distribution_becomes_nan(cpu: str, bad: float, place: int) -> None:
    scores = np.zeros((3, 101), np.float32)
    scores[1, place] = bad
    scores[2] = -np.inf
    vocabulary(cpu).log_softmax(scores)
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1:]).all()


@pytest.mark.parametrize("size", [1, 2, 17])
def test_equal_scores_share_the_probability(size: int) -> None:
    scores = np.full((2, size), 7, np.float32)
    vocabulary(CPUS[0]).log_softmax(scores)
    np.testing.assert_allclose(scores, -np.log(size), atol=6e-7)
