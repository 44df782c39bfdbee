"""Sizes of a decoder, and the refusal of tokens and lengths beyond them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError


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
