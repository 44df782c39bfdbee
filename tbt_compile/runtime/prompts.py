"""Checks of the token ids that generation starts from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import Tokens
from tbt_compile.runtime.limits import DecoderLimits


def checked_prompts(
    input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None, limits: DecoderLimits, padding: str
) -> tuple[Tokens, Tokens]:
    """Ids and mask as int64 [B, S]; an index out of range would read beyond a table.

    Args:
        input_ids: sources or prompts.
        attention_mask: 1 for tokens and 0 for padding; by default there is none.
        limits: of the model.
        padding: the side that shorter rows are padded on: "right" for sources, "left" for prompts, because
            new tokens follow the last column of a prompt.

    Raises:
        GenerationError: something does not fit.
    """
    try:
        ids = np.asarray(input_ids)
        mask = np.ones(ids.shape, np.int64) if attention_mask is None else np.asarray(attention_mask)
    except ValueError as error:
        raise GenerationError(
            f"input_ids or attention_mask is no array ({error}): pad shorter rows on the {padding}"
        ) from error
    if ids.ndim != 2 or 0 in ids.shape or ids.dtype.kind not in "iu":
        raise GenerationError(
            f"input_ids has shape {list(ids.shape)} and type {ids.dtype}: expected integers "
            "[batch, length], both at least 1"
        )
    if mask.shape != ids.shape:
        raise GenerationError(
            f"attention_mask has shape {list(mask.shape)}: expected that of input_ids, {list(ids.shape)}"
        )
    if ids.min() < 0 or ids.max() >= limits.vocabulary:
        raise GenerationError(
            f"input_ids holds {ids.min()} to {ids.max()}: expected ids from 0 to {limits.vocabulary - 1}"
        )
    attended = mask.astype(bool)
    # Padding on the left takes no position.
    length = ids.shape[1] if padding == "right" else int(attended.sum(axis=1).max())
    if limits.max_positions is not None and length > limits.max_positions:
        raise GenerationError(
            f"input_ids has {length} tokens, and the model has {limits.max_positions} positions: cut it, or "
            "split it"
        )
    if not attended.any(axis=1).all():
        raise GenerationError("attention_mask leaves no token of a row: expected at least one 1 per row")
    if padding == "left" and not attended[:, -1].all():
        raise GenerationError(
            "attention_mask ends with padding, and new tokens follow the last column: pad shorter prompts on "
            "the left"
        )
    return ids.astype(np.int64), attended.astype(np.int64)
