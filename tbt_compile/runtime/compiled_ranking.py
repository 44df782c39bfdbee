"""The scores of a whole vocabulary, ranked by functions of the compiled library."""

from __future__ import annotations

import numpy as np

from tbt_compile.codegen.library.names import BEST, LOG_SOFTMAX
from tbt_compile.runtime.bound_library import BoundLibrary
from tbt_compile.runtime.generation.session import Scores
from tbt_compile.runtime.generation.topk import Continuations
from tbt_compile.runtime.tvm_runtime import shared_tensor, tensor
from tbt_compile.storage.aligned import ALIGNMENT, aligned_copy, aligned_empty


class CompiledRanking:
    """Ranks tokens (see `TokenRanking`) in a quarter of NumPy's time."""

    def __init__(self, library: BoundLibrary) -> None:
        self._log_softmax, self._best = library.function(LOG_SOFTMAX), library.function(BEST)

    def log_softmax(self, scores: Scores) -> None:
        """Replace every row of `scores`, float32 [rows, V], by its log-softmax."""
        aligned = _aligned(scores)
        self._log_softmax(shared_tensor(aligned))
        if aligned is not scores:
            scores[...] = aligned

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        """The k best continuations per input, see `best_continuations`."""
        inputs, _, vocabulary = log_probs.shape
        scores, places = aligned_empty((inputs, k), np.float32), aligned_empty((inputs, k), np.int64)
        self._best(
            shared_tensor(_aligned(log_probs)),
            tensor(beam_scores),
            shared_tensor(scores),
            shared_tensor(places),
        )
        return Continuations(scores, *np.divmod(places, vocabulary))


def _aligned(scores: Scores) -> Scores:
    is_aligned = scores.flags.c_contiguous and scores.ctypes.data % ALIGNMENT == 0
    return scores if is_aligned else aligned_copy(scores)
