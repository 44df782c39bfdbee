"""Compiled text-generation models: generate, save and load. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from tbt_compile import storage
from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import DecoderSession, GenerationSettings, decoder_prompt, search
from tbt_compile.runtime.library import Array, CompiledLibrary
from tbt_compile.runtime.limits import DecoderLimits
from tbt_compile.runtime.prompts import checked_prompts

if TYPE_CHECKING:
    from tbt_compile.runtime.generation import Tokens


class CompiledModel(CompiledLibrary):
    """A model that generates text as a library for one CPU, with its packed weights.

    Encoder-decoder models read a source and write to it; decoder-only models go on with a prompt. Made by
    `tbt_compile.lower`, or read from a folder by `tbt_compile.load`. Attributes: see `CompiledLibrary`.
    """

    KIND = storage.GENERATOR

    def __init__(
        self,
        library: Any,
        description: dict[str, Any],
        tensors: dict[str, Array],
        num_threads: int | None = None,
    ) -> None:
        super().__init__(library, description, tensors, num_threads)
        self._settings = GenerationSettings.from_dict(description["generation"])
        self._limits = DecoderLimits(
            description["layers"], description["vocabulary"], description["max_positions"]
        )

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder; else it is decoder-only."""
        return "encoder" in self.description["functions"]

    def generate(
        self,
        input_ids: npt.ArrayLike,
        attention_mask: npt.ArrayLike | None = None,
        *,
        decoder_input_ids: npt.ArrayLike | None = None,
        on_tokens: Callable[[npt.NDArray[np.int64]], None] | None = None,
        **settings: Any,
    ) -> npt.NDArray[np.int64]:
        """Greedy or beam search; the same tokens and padding as transformers' `generate(do_sample=False)`.

        Args:
            input_ids: integers [B, S], the sources, or the prompts of a decoder-only model. Shorter sources
                are padded on the right, shorter prompts on the left.
            attention_mask: 1 for tokens and 0 for padding, [B, S]; by default everything is attended to.
            decoder_input_ids: encoder-decoder models only; integers [B, q] that every output begins with; by
                default the start token.
            on_tokens: greedy search only; called after every step with the new tokens, int64 [B].
            settings: fields of `GenerationSettings` (num_beams, max_new_tokens, min_new_tokens,
                length_penalty, early_stopping, no_repeat_ngram_size, forced_bos_token_id, ...), which
                override the model's own generation config.

        Returns:
            int64 [B * num_return_sequences, T], the decoder's start token, or the prompt, included.

        Raises:
            GenerationError: an input or a setting does not fit.
            TargetError: the model was compiled for another machine.
        """
        ids, mask = self._check(input_ids, attention_mask)
        chosen = self._settings.replace(**settings)
        padding = None
        if self.is_encoder_decoder:
            prompt = decoder_prompt(chosen, len(ids), decoder_input_ids)
        elif decoder_input_ids is None:
            prompt, padding = ids, mask.argmax(axis=1)
        else:
            raise GenerationError(
                f"decoder_input_ids: {self.description['class']} has no encoder, and its prompt is input_ids"
            )
        session = self._open(ids, mask)
        return search(session, chosen, prompt, encoder_input_ids=ids, padding=padding, on_tokens=on_tokens)

    def session(
        self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None = None
    ) -> DecoderSession:
        """Encode a batch and return a `DecoderSession`, for a search of one's own.

        The first step takes the start tokens; that of a decoder-only model takes `input_ids` again. Arguments
        and errors are those of `generate`.
        """
        return self._open(*self._check(input_ids, attention_mask))

    def __call__(self, *_args: Any, **_inputs: Any) -> NoReturn:
        """Generators are not called.

        Raises:
            GenerationError: always.
        """
        raise GenerationError(
            f"{self.description['class']} was compiled to generate text: use generate(input_ids), or session "
            "for logits step by step"
        )

    def _check(self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None) -> tuple[Tokens, Tokens]:
        return checked_prompts(
            input_ids, attention_mask, self._limits, "right" if self.is_encoder_decoder else "left"
        )

    def _open(self, ids: Tokens, mask: Tokens) -> DecoderSession:
        machine = self._ready()
        if self.is_encoder_decoder:
            from tbt_compile.runtime.seq2seq import Seq2SeqSession

            return Seq2SeqSession(machine, self._limits, ids, mask)
        from tbt_compile.runtime.decoder_only import DecoderOnlySession

        return DecoderOnlySession(machine, self._limits, mask)
