"""Checks of what a model is to read: an index out of range would read beyond a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import Tokens


@dataclass(frozen=True)
class DecoderLimits:
    """Sizes of a decoder.

    Attributes:
        layers: each has two caches, of keys and values.
        vocabulary: number of tokens.
        max_positions: most tokens that a sequence can have, or None.
    """

    layers: int
    vocabulary: int
    max_positions: int | None

    def check(self, tokens: npt.NDArray[np.int64], length: int) -> None:
        """Refuse what would read beyond a table.

        Args:
            tokens: int64 [rows, q], about to be appended.
            length: tokens of the longest sequence afterwards.

        Raises:
            GenerationError: the sequences would be longer than the model's position embeddings, or a token
                is outside the vocabulary.
        """
        if self.max_positions is not None and length > self.max_positions:
            raise GenerationError(
                f"{length} decoder tokens are more than the model's {self.max_positions} positions: lower "
                "max_new_tokens or max_length"
            )
        listed = tokens.ravel().tolist()  # mostly one token a row: two reductions of NumPy's take longer
        least, most = min(listed), max(listed)
        if least < 0 or most >= self.vocabulary:
            raise GenerationError(
                f"decoder token {least if least < 0 else most}: expected ids from 0 to "
                f"{self.vocabulary - 1} in decoder_input_ids, forced tokens and pad_token_id"
            )


def checked_batch(
    input_ids: npt.ArrayLike,
    attention_mask: npt.ArrayLike | None,
    limits: DecoderLimits,
    padding: str = "right",
) -> tuple[Tokens, Tokens]:
    """Source ids and mask as int64 [B, S].

    Args:
        limits: of the model.
        padding: the side that shorter sources are padded on: "left" for the prompts of a decoder-only model,
            because new tokens follow the last column.

    Raises:
        GenerationError: naming what does not fit.
    """
    try:
        ids = np.asarray(input_ids)
        mask = np.ones(ids.shape, np.int64) if attention_mask is None else np.asarray(attention_mask)
    except ValueError as error:
        raise GenerationError(
            f"input_ids or attention_mask is no array ({error}): pad shorter sources on the {padding}"
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
            f"the source has {length} tokens, and the model has {limits.max_positions} positions: cut it, or "
            "split it"
        )
    if not attended.any(axis=1).all():
        raise GenerationError("attention_mask leaves no token of a source: expected at least one 1 per row")
    if padding == "left" and not attended[:, -1].all():
        raise GenerationError(
            "attention_mask ends with padding, and new tokens follow the last column: pad shorter prompts on "
            "the left"
        )
    return ids.astype(np.int64), mask.astype(np.int64)


def checked_sources(sources: Iterable[Any], limits: DecoderLimits) -> list[Tokens]:
    """Every source as int64 [S], without padding.

    Args:
        sources: token ids, or mappings with `input_ids` and perhaps `attention_mask`.
        limits: of the model.

    Raises:
        GenerationError: naming the first source that does not fit.
    """
    rows = []
    for number, source in enumerate(sources):
        try:
            ids, _ = checked_batch(np.asarray(_token_ids(source))[None], None, limits)
            rows.append(ids[0])
        except ValueError as error:  # also what numpy raises for a list that is no array
            raise GenerationError(f"source {number}: {error}") from error
    return rows


def _token_ids(source: Any) -> Any:
    if not isinstance(source, Mapping):
        return source
    if "input_ids" not in source:
        raise GenerationError(
            f"a row with the fields {', '.join(map(str, source))}: expected input_ids, token ids"
        )
    mask = np.asarray(source.get("attention_mask", np.ones(len(source["input_ids"]))))
    length = int(mask.sum())
    if not mask[:length].all():
        raise GenerationError("attention_mask has a 0 before a 1: expected padding on the right only")
    return source["input_ids"][:length]
