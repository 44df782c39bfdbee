"""A decoder session for callers outside the package."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import DecoderSession, Scores, Tokens
from tbt_compile.runtime.generation.prompt import as_token_matrix


class CheckedSession:
    """A `DecoderSession` that checks its arguments, and whose results stay as they are in later steps.

    The searches of this package use the session inside, which reuses one buffer for the logits of all steps.

    Args:
        session: a session before its first step.
        rows: number of rows that it decodes.
    """

    def __init__(self, session: DecoderSession, rows: int) -> None:
        self._session, self._rows = session, rows

    def step(self, tokens: ArrayLike) -> Scores:
        """Append tokens, integers [rows, q]; returns the logits of the last position, float32 [rows, n].

        Raises:
            GenerationError: the tokens have another shape, are outside the vocabulary, or are too many.
        """
        given = as_token_matrix("tokens", tokens)
        if len(given) != self._rows or not given.shape[1]:
            raise GenerationError(
                f"tokens has shape {list(given.shape)}: expected [{self._rows}, tokens], at least one"
            )
        return self._session.step(given).copy()

    def reorder(self, rows: ArrayLike) -> None:
        """Replace the rows by the current ones at the indices `rows`, integers [new rows].

        Raises:
            GenerationError: an index is outside the current rows, or there is none.
        """
        given = np.asarray(rows)
        if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
            raise GenerationError(
                f"rows is {given.dtype} of shape {list(given.shape)}: expected integers [new rows], at least "
                "one"
            )
        if given.min() < 0 or given.max() >= self._rows:
            raise GenerationError(
                f"rows holds {given.min()} to {given.max()}: expected indices from 0 to {self._rows - 1}"
            )
        chosen: Tokens = given.astype(np.int64)
        self._session.reorder(chosen)
        self._rows = len(chosen)
