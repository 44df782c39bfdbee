"""The interface between a search and the model it runs."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tbt_compile.errors import GenerationError

Tokens = NDArray[np.int64]
Scores = NDArray[np.float32]


class DecoderSession(Protocol):
    """One batch being decoded: the encoder has run, and the session holds the caches.

    A session starts with one row per input. The search calls `step` first, then `reorder` at most once
    between two steps; rows are only multiplied, permuted and dropped through `reorder`.
    """

    def step(self, tokens: Tokens) -> Scores:
        """Append tokens to every row and return the logits of the last position.

        Args:
            tokens: int64 [rows, q]; the first call brings the whole decoder prompt, later ones q = 1.

        Returns:
            float32 [rows, vocabulary]. The search may overwrite the array, and does not look at it any more
            once it has called `step` or `reorder`; so a session can return the same memory every time.
        """
        ...

    def reorder(self, rows: Tokens) -> None:
        """Replace the rows by `rows`, int64 [new rows], indices into the present ones.

        An index may occur several times (a beam that splits, or the first expansion from inputs to beams) or
        not at all (a finished input). Beams of one input stay adjacent and inputs keep their order.
        """
        ...


def checked_step(session: DecoderSession, tokens: Tokens) -> Scores:
    """`session.step(tokens)`, contiguous and writable (a copy if it was not).

    Raises:
        GenerationError: the session returned another shape or type.
    """
    logits = session.step(tokens)
    if logits.ndim != 2 or len(logits) != len(tokens) or logits.dtype != np.float32:
        raise GenerationError(
            f"the decoder returned {logits.dtype} logits of shape {list(logits.shape)}: expected float32 "
            f"[{len(tokens)}, vocabulary]"
        )
    return logits if logits.flags.carray else np.array(logits, order="C")


def nan_error(length: int) -> GenerationError:
    """The error for NaN among the scores of the token after `length` tokens."""
    return GenerationError(
        f"the decoder's scores after {length} tokens hold NaN: the model's weights or scales are damaged, an "
        "input has no attended token, or every token is banned"
    )
