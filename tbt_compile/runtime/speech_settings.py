"""What a Whisper model needs to transcribe besides the settings of every search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SpeechSettings:
    """What a Whisper model needs besides `GenerationSettings`; names are those of its generation config.

    Attributes:
        window: frames that the encoder reads at a time.
        stride: frames per position of its output, half of what a timestamp counts.
        max_target_positions: the decoder's positions.
        lang_to_id: tokens of languages, "<|en|>" and so on; empty if the model has one language.
        task_to_id: tokens of tasks.
        languages: codes of languages by name, "english": "en".
        no_timestamps_token_id: the token before the first timestamp, or None.
        max_initial_timestamp_index: see `Timestamps.most_at_start`.
        language: the default.
        task: the default.
        return_timestamps: the default.
        is_multilingual: False if language and task cannot be chosen.
        forced_decoder_ids: tokens that follow the start token if neither language nor task is chosen; None in
            the place of the language asks to detect it.
    """

    window: int
    stride: int
    max_target_positions: int
    lang_to_id: dict[str, int] = field(default_factory=dict)
    task_to_id: dict[str, int] = field(default_factory=dict)
    languages: dict[str, str] = field(default_factory=dict)
    no_timestamps_token_id: int | None = None
    max_initial_timestamp_index: int | None = None
    language: str | None = None
    task: str | None = None
    return_timestamps: bool = False
    is_multilingual: bool = True
    forced_decoder_ids: list[int | None] = field(default_factory=list)

    @classmethod
    def recorded(cls, description: Mapping[str, Any]) -> SpeechSettings | None:
        """Read them from a manifest; None if the model is no speech model."""
        found = description.get("speech")
        return None if found is None else cls(**found)

    def first_timestamp(self, vocabulary: int) -> int:
        """The token of 0.00 seconds; beyond the vocabulary if the model has no timestamps."""
        return vocabulary + 1 if self.no_timestamps_token_id is None else self.no_timestamps_token_id + 1

    def language_of(self, prompt: Sequence[int]) -> str | None:
        """The name of the language that a prompt chooses, such as "english"; None if it chooses none."""
        codes = {token: code.strip("<|>") for code, token in self.lang_to_id.items()}
        chosen = next((codes[token] for token in prompt if token in codes), None)
        return next((name for name, code in self.languages.items() if code == chosen), chosen)
