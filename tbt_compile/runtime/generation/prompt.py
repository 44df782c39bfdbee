"""Decoder prompts: the tokens that decoding starts from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation.session import Tokens
from tbt_compile.runtime.generation.settings import GenerationSettings


def decoder_prompt(
    settings: GenerationSettings, batch: int, decoder_input_ids: ArrayLike | None = None
) -> Tokens:
    """Make the decoder prompt, as transformers does.

    Args:
        settings: provide the start token.
        batch: number of rows.
        decoder_input_ids: integers [batch, q]; None for the start token only. The start token is prepended
            to every row, unless some row already begins with its start token.

    Returns:
        int64 [batch, q], [batch, q + 1] or [batch, 1].

    Raises:
        GenerationError: no start token is known, or a shape does not fit the batch.
    """
    start = (
        settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
    )
    if start is None:
        raise GenerationError(
            "neither decoder_start_token_id nor bos_token_id is set: pass the token that outputs start with"
        )
    if isinstance(start, tuple) and len(start) != batch:
        raise GenerationError(
            f"decoder_start_token_id has {len(start)} ids: expected one, or one per row ({batch})"
        )
    first = np.empty((batch, 1), np.int64)
    first[:, 0] = start
    if decoder_input_ids is None:
        return first
    given = as_token_matrix("decoder_input_ids", decoder_input_ids)
    if given.shape[0] != batch or given.shape[1] == 0:
        raise GenerationError(
            f"decoder_input_ids has shape {list(given.shape)}: expected [{batch}, length], length at least 1"
        )
    if (given[:, :1] == first).any():
        return given
    return np.concatenate([first, given], axis=1)


def as_token_matrix(name: str, ids: ArrayLike) -> Tokens:
    """Convert token ids to int64 [rows, length]; `name` appears in errors.

    Raises:
        GenerationError: the ids are not integers, are negative, or do not have two dimensions.
    """
    array = np.asarray(ids)
    if array.ndim != 2 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise GenerationError(
            f"{name}: {array.dtype} of shape {list(array.shape)}; expected integers [rows, length]"
        )
    if array.size and array.min() < 0:
        raise GenerationError(f"{name} holds the negative token id {array.min()}")
    return array.astype(np.int64, copy=False)
