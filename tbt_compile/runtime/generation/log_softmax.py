"""Log-softmax over the vocabulary, in place and in float32."""

from __future__ import annotations

import numpy as np

from tbt_compile.runtime.generation.session import Scores


def log_softmax(scores: Scores) -> None:
    """Replace every row of `scores`, float32 [rows, vocabulary], by its log-softmax.

    The order of the operations, (x - max) - log(sum(exp(x - max))), is that of torch. A row with NaN or plus
    infinity, or with nothing but minus infinity, becomes NaN.

    >>> x = np.zeros((1, 4), np.float32)
    >>> log_softmax(x)
    >>> bool(np.allclose(x, np.log(0.25)))
    True
    """
    exponentials = np.empty(scores.shape[1], np.float32)
    with np.errstate(invalid="ignore"):
        # One row at a time, so that a row and its exponentials stay in the cache.
        for row in scores:
            row -= row.max()
            np.exp(row, out=exponentials)
            row -= np.log(exponentials.sum())
