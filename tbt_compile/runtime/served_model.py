"""What continuous batching needs of a compiled model: checked requests, sessions, and which rows can join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.runtime.generation import DecoderSession, GenerationSettings, Scores, Tokens
from tbt_compile.runtime.generation.prompt import decoder_prompt


class ServedModel:
    """A text generator that takes token ids.

    Args:
        model: the compiled model.

    Attributes:
        model: as above.
        name: its class.
        has_encoder: whether it is an encoder-decoder.
        rows_can_join: whether rows of different lengths take steps together, padded on the left: the model is
            decoder-only, padding has no positions in it, and it takes sequences of every length.
        vocabulary: number of tokens.

    Raises:
        GenerationError: the model takes features.
    """

    def __init__(self, model: CompiledModel) -> None:
        self.model, self.name = model, str(model.description["class"])
        if model._source.features is not None:
            raise GenerationError(
                f"{self.name} takes {model._source.features.name}: expected a model that takes token ids"
            )
        limits = model._limits
        self.has_encoder = model.is_encoder_decoder
        any_size = not any(limits.bounds.get(function) for function in ("first_step", "step"))
        self.rows_can_join = not self.has_encoder and limits.decoder.length is None and any_size
        self.vocabulary = int(model.description["vocabulary"])

    def request(self, source: Sequence[int], settings: GenerationSettings) -> tuple[Tokens, Tokens]:
        """Check the source of one output.

        Args:
            source: token ids.
            settings: of the search.

        Returns:
            The source, int64 [S], and the first decoder tokens, int64 [q].

        Raises:
            GenerationError: the source does not fit the model.
        """
        ids, mask = self.model._source.checked([list(source)], [[1] * len(source)], {})
        if not self.has_encoder:
            return ids[0], ids[0]
        prompt = decoder_prompt(settings, 1)
        return ids[0, : int(mask.sum())], prompt[0]

    def check_length(self, prompt: int, longest: int) -> None:
        """Check the length that an output may reach, before it is begun.

        Args:
            prompt: tokens before the new ones.
            longest: tokens of the longest output, prompt included.

        Raises:
            GenerationError: see `Limits.check_output`.
        """
        self.model._limits.check_output(prompt, prompt, longest)

    @property
    def longest(self) -> int | None:
        """The most tokens that an output can have, prompt included and without its last; None: any number."""
        limits = self.model._limits.decoder
        known = [limit for limit in (limits.length, limits.positions) if limit is not None]
        return min(known, default=None)

    def known(self, prompt: Tokens) -> int:
        """The number of leading tokens of a prompt, int64 [S], that are kept and need not be read."""
        return 0 if self.model.prompts is None else self.model.prompts.known(prompt)

    def open(self, ids: Tokens, mask: Tokens) -> DecoderSession:
        """Open a session on sources, int64 [B, S], padded on the right, or prompts, padded on the left."""
        return self.model._open(*self.model._source.padded(ids, mask))

    def whole_logits(self, logits: Scores) -> Any:
        """As `CompiledModel.whole_logits`."""
        return self.model.whole_logits(logits)
