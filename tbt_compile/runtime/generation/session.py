"""The interface between a search and the decoder that it drives."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tbt_compile.errors import GenerationError

Tokens = NDArray[np.int64]
Scores = NDArray[np.float32]


class DecoderSession(Protocol):
    """The decoding of one batch: the encoder has run, and the session holds the KV caches.

    A session starts with one row per input. The search calls `step` first, then `reorder` at most once
    between steps. Only `reorder` duplicates, permutes and drops rows.
    """

    def step(self, tokens: Tokens) -> Scores:
        """Append tokens to every row and return the logits of the last position.

        Args:
            tokens: int64 [rows, q]; the whole decoder prompt in the first call, q = 1 in later ones.

        Returns:
            float32 [rows, vocabulary]. The search may overwrite the array, and does not read it after its
            next call of `step` or `reorder`: a session may return the same buffer every time.
        """
        ...

    def reorder(self, rows: Tokens) -> None:
        """Replace the rows by the current ones at the indices `rows`, int64 [new rows].

        An index may occur several times (a beam that splits, or the expansion from inputs to beams) or not
        at all (a finished input). Beams of one input stay adjacent and inputs keep their order.
        """
        ...


def checked_step(session: DecoderSession, tokens: Tokens) -> Scores:
    """Return `session.step(tokens)`, copied if it is not contiguous and writable.

    Raises:
        GenerationError: the session returned the wrong shape or dtype.
    """
    logits = session.step(tokens)
    if logits.ndim != 2 or len(logits) != len(tokens) or logits.dtype != np.float32:
        raise GenerationError(
            f"the decoder returned {logits.dtype} logits of shape {list(logits.shape)}: expected float32 "
            f"[{len(tokens)}, vocabulary]"
        )
    return logits if logits.flags.carray else np.array(logits, order="C")


_LEAST_ROOM = 64


def with_room(ids: Tokens, length: int, maximum: int, padding: int) -> Tokens:
    """Make room for `length` tokens in every row: maximum lengths may be far above what is generated.

    Args:
        ids: int64 [..., capacity].
        length: number of tokens to hold, at most `maximum`.
        maximum: largest capacity.
        padding: the token that fills new places.

    Returns:
        `ids` if they have room, else a copy with at least twice the capacity.
    """
    capacity = ids.shape[-1]
    if length <= capacity:
        return ids
    roomier = np.full((*ids.shape[:-1], min(maximum, max(_LEAST_ROOM, 2 * length))), padding, np.int64)
    roomier[..., :capacity] = ids
    return roomier


def nan_error(length: int) -> GenerationError:
    """Make the error for NaN in the scores of the token after `length` tokens."""
    return GenerationError(
        f"the decoder's scores after {length} tokens hold NaN: the model's weights or scales are damaged, an "
        "input has no attended token, or every token is banned"
    )
