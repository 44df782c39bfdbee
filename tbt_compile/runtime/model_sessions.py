"""Encoding and decoder sessions of a compiled text generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.builds import Build
from tbt_compile.runtime.checked_session import CheckedSession
from tbt_compile.runtime.companions import Files
from tbt_compile.runtime.compiled_library import Array, CompiledLibrary
from tbt_compile.runtime.generation import DecoderSession, Tokens
from tbt_compile.runtime.generation.validation import integer
from tbt_compile.runtime.input_checks import Limits
from tbt_compile.runtime.prompt_cache import PromptCache
from tbt_compile.runtime.source_input import Features, SourceInput


class SessionModel(CompiledLibrary):
    """A compiled encoder-decoder or decoder-only model, step by step.

    Attributes:
        prompts: what is kept of prompts, see `keep_prompts`, or None.
    """

    def __init__(
        self,
        builds: Sequence[Build],
        description: dict[str, Any],
        tensors: dict[str, Array],
        num_threads: int | None = None,
        files: Files | None = None,
    ) -> None:
        super().__init__(builds, description, tensors, num_threads, files)
        self._limits = Limits.recorded(description)
        self._source = SourceInput(description["class"], Features.recorded(description), self._limits)
        self.prompts: PromptCache | None = None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder; else it is decoder-only."""
        return "encoder" in self.description["functions"]

    @property
    def can_keep_prompts(self) -> bool:
        """Whether the model can read a prompt in parts, and gives no positions to padding."""
        return "extend" in self.description["functions"] and self._limits.decoder.length is None

    def keep_prompts(self, most_bytes: int) -> None:
        """Keep the packed keys and values of prompts, so that a prompt which begins like one before is read
        from there on only. Outputs stay the same, to the last bit.

        Args:
            most_bytes: that they may take; what was not used for longest goes first. 0 keeps nothing.

        Raises:
            GenerationError: the model has an encoder, or cannot read a prompt in parts; or `most_bytes` is no
                number of bytes.
        """
        most_bytes = integer("most_bytes", most_bytes)
        if most_bytes and not self.can_keep_prompts:
            raise GenerationError(
                f"{self.description['class']} cannot keep prompts: expected a decoder-only model that reads "
                "a prompt in parts, and whose positions do not count padding; lower one again that an "
                "earlier version lowered"
            )
        self.prompts = PromptCache(most_bytes) if most_bytes else None

    def session(
        self,
        input_ids: npt.ArrayLike | None = None,
        attention_mask: npt.ArrayLike | None = None,
        **features: Any,
    ) -> DecoderSession:
        """Encode a batch and return a `DecoderSession`, for a custom search.

        The first step takes the start tokens, or in a decoder-only model `input_ids` again. A model with a
        `shortlist` returns the logits of those tokens, in that order. Arguments and errors are those of
        `generate`.
        """
        ids, mask = self._source.checked(input_ids, attention_mask, features)
        return CheckedSession(self._open(ids, mask), len(ids))

    def encode(
        self,
        input_ids: npt.ArrayLike | None = None,
        attention_mask: npt.ArrayLike | None = None,
        **features: Any,
    ) -> npt.NDArray[np.float32]:
        """Run the encoder; returns float32 [B, S, D]. Arguments and errors are those of `generate`.

        S is the `padded_length` of the source.
        """
        from tbt_compile.runtime.bound_library import as_array

        self._need_encoder("encode")
        checked = self._source.checked(input_ids, attention_mask, features)
        return as_array(self._encode(*checked)).copy()

    def padded_length(self, length: int) -> int:
        """The length to which sources are padded: theirs, or the next one that the model can encode."""
        return length + self._limits.more_padding(length)

    def decoder_session(self, hidden: npt.ArrayLike, attention_mask: npt.ArrayLike) -> DecoderSession:
        """Open a `DecoderSession` on what `encode` returned, [B, S, D], and its mask, integers [B, S].

        Raises:
            GenerationError: the shapes do not match, or the model has no encoder.
        """
        from tbt_compile.runtime.bound_library import tensor

        self._need_encoder("decoder_session")
        states, mask = np.asarray(hidden), np.asarray(attention_mask)
        width = self._limits.width
        if states.shape != (*mask.shape, width) or states.dtype != np.float32 or mask.ndim != 2:
            raise GenerationError(
                f"encoder output of shape {list(states.shape)} with attention_mask of shape "
                f"{list(mask.shape)}: expected float32 [batch, length, {width}] and [batch, length]; the "
                f"output is {states.dtype}"
            )
        # As for the ids that were encoded, of which only the shape is left.
        if self._source.features is None:
            _, mask = self._source.checked(np.zeros(mask.shape, np.int64), mask, {})
        return CheckedSession(self._decode(tensor(states), mask), len(states))

    def _need_encoder(self, method: str) -> None:
        if not self.is_encoder_decoder:
            raise GenerationError(f"{method}: {self.description['class']} has no encoder; use session")

    def _open(self, source: Array, mask: Tokens, num_threads: int | None = None) -> DecoderSession:
        if self.is_encoder_decoder:
            return self._decode(self._encode(source, mask, num_threads), mask)
        from tbt_compile.runtime.decoder_only import DecoderOnlySession

        return DecoderOnlySession(self._with_threads(num_threads), self._limits, mask, self.prompts)

    def _encode(self, source: Array, mask: Tokens, num_threads: int | None = None) -> Any:
        from tbt_compile.runtime.bound_library import tensor

        self._limits.check_sizes("encoder", rows=len(source), source=mask.shape[1])
        inputs = map(tensor, self._source.arguments(source, mask))
        return self._with_threads(num_threads).call("encoder", *inputs)[0]

    def _decode(self, hidden: Any, mask: Tokens) -> DecoderSession:
        from tbt_compile.runtime.seq2seq import Seq2SeqSession

        return Seq2SeqSession(self._bound(), self._limits, hidden, mask)
