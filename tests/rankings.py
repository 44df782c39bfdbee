"""Scores of beams to choose the best continuations from, and what they are made with."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "inputs": st.integers(1, 3),
    "beams": st.integers(1, 4),
    "k": st.integers(1, 12),
    "levels": st.sampled_from([1, 2, 30, 10**6]),
    "banned": st.sampled_from([0.0, 0.5, 0.999, 1.0]),
    "seed": st.integers(0, 10**6),
}


def scores_of_beams(
    inputs: int, beams: int, vocabulary: int, levels: int, banned: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [inputs, beams, vocabulary] and scores [inputs, beams], float32.

    Few `levels` make ties, and `banned` puts minus infinity nearly everywhere.
    """
    random = np.random.default_rng(seed)
    log_probs = -random.integers(0, levels, (inputs, beams, vocabulary)).astype(np.float32) / 8
    log_probs[random.random(log_probs.shape) < banned] = -np.inf
    return log_probs, -random.integers(0, 3, (inputs, beams)).astype(np.float32)
