"""From a recording to its transcript, with one compiled model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from tbt_compile.errors import ServingError
from tbt_compile.runtime import worker_threads
from tbt_compile.runtime.batching import Stoppable
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.runtime.generation import Tokens
from tbt_compile.runtime.speech import SpeechModel, Window, transcribe_windows
from tbt_compile.runtime.speech_settings import SpeechSettings
from tbt_compile.serving.log_mel import LogMel
from tbt_compile.serving.recordings import read_samples
from tbt_compile.serving.tokenizing import ServedTokenizer
from tbt_compile.serving.transcripts import Segment, Transcript, spans

_BEFORE = "<|startofprev|>"
"""The token after which Whisper reads what was said before."""


class Transcriber:
    """Transcribes recordings as `CompiledModel.generate` does, with the same features as transformers.

    Args:
        model: a compiled Whisper model.
        folder: its folder, with tokenizer and feature extractor.
        most_seconds: that a recording may last.

    Raises:
        FormatError: tokenizer or feature extractor are missing, or do not fit.
    """

    def __init__(self, model: CompiledModel, folder: Path, most_seconds: float) -> None:
        assert model._speech is not None and model._source.features is not None
        self._model, self._most_seconds = model, most_seconds
        self._speech: SpeechSettings = model._speech
        self._settings = model._settings
        self._features = LogMel.read(folder, model._source.features.shape[0])
        self.tokenizer = ServedTokenizer(folder, self._settings.eos_token_id)
        self._first = self._speech.first_timestamp(int(model.description["vocabulary"]))

    def transcribe(
        self, data: bytes, language: str | None, prompt: str | None, timed: bool, stop: threading.Event
    ) -> Transcript:
        """Transcribe a recording. Blocks; the work is done in a worker thread.

        Args:
            data: a file.
            language: by name or code; None detects it, unless the model has a default.
            prompt: what was said before, or names that occur.
            timed: whether segments are wanted; long recordings have them anyway.
            stop: ends it at the next step.

        Raises:
            ServingError: the file or the prompt cannot be read, the file is too long, or the model writes no
                timestamps.
            GenerationError: the model has no such language.
            StoppedError: `stop` was set.
        """
        samples = read_samples(data, self._features.rate, self._most_seconds, stop.is_set)
        mels = self._features.spectrogram(samples, self._speech.window)
        self._check_timestamps(timed, mels.shape[1])
        frames = np.array([min(-(-len(samples) // self._features.hop), mels.shape[1])])
        options: dict[str, Any] = {"language": language, "return_timestamps": timed or None}
        if self._speech.is_multilingual and "transcribe" in self._speech.task_to_id:
            options["task"] = "transcribe"
        if prompt:
            options["prompt_ids"] = self._prompt_ids(prompt)
        prompts, (windows,) = worker_threads.run(lambda: self._windows(mels, frames, options, stop))
        return self._transcript(prompts[0].tolist(), windows, len(samples))

    def _check_timestamps(self, timed: bool, frames: int) -> None:
        if self._speech.no_timestamps_token_id is not None:
            return
        window = self._speech.window
        if timed:
            raise ServingError("response_format: this model writes no timestamps; use json or text")
        if frames > window:
            seconds = window * self._features.hop / self._features.rate
            raise ServingError(
                f"file: this model writes no timestamps, and reads at most {seconds:g} seconds: split it"
            )

    def _windows(
        self, mels: Any, frames: Tokens, options: dict[str, Any], stop: threading.Event
    ) -> tuple[Tokens, list[list[Window]]]:
        whole = self._model._speech_model()
        model = SpeechModel(lambda windows: Stoppable(whole.open(windows), stop), whole.search)
        size = int(self._model.description["vocabulary"])
        return transcribe_windows(
            model, self._speech, mels[None], frames, self._settings, vocabulary=size, **options
        )

    def _transcript(self, prompt: list[int], windows: list[Window], samples: int) -> Transcript:
        seconds = self._features.hop / self._features.rate
        segments = [
            Segment(start * seconds, end * seconds, self.tokenizer.decode(tokens), tokens)
            for window in windows
            for start, end, tokens in spans(window, self._first, self._speech.stride)
        ]
        text = self.tokenizer.decode([token for segment in segments for token in segment.tokens]).strip()
        return Transcript(text, self._speech.language_of(prompt), samples / self._features.rate, segments)

    def _prompt_ids(self, prompt: str) -> list[int]:
        """The tokens before the start token, of which the last half of the decoder's positions are kept."""
        before = self.tokenizer.tokenizer.token_to_id(_BEFORE)
        if before is None:
            raise ServingError(f"prompt: the model's tokenizer has no {_BEFORE}; leave it out")
        ids = self.tokenizer.plain(" " + prompt.strip())
        added = self.tokenizer.tokenizer.get_added_tokens_decoder()
        if any(token in added and added[token].special for token in ids):
            raise ServingError("prompt: it names special tokens of the model; leave them out")
        return [before, *ids[-(self._speech.max_target_positions // 2 - 1) :]]
