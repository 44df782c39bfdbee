"""Transcribe speech as Whisper's `generate` does: a prompt of language and task, windows, timestamps.

A model reads windows of a fixed number of frames. Without timestamps in its output the next window follows
the last; with them it starts where the last whole segment ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError, did_you_mean
from tbt_compile.runtime.generation import DecoderSession, GenerationSettings, Tokens
from tbt_compile.runtime.generation.timestamps import Timestamps
from tbt_compile.runtime.speech_settings import SpeechSettings

Frames = npt.NDArray[np.float32]
OPTIONS = ("language", "task", "return_timestamps", "prompt_ids")
"""Arguments of `transcribe` that a call of `generate` may have."""


@dataclass(frozen=True)
class Window:
    """What was written of one window of a recording.

    Attributes:
        start: its first frame.
        frames: that are covered, up to where the next window starts.
        tokens: without start and end tokens.
    """

    start: int
    frames: int
    tokens: list[int]


@dataclass(frozen=True)
class SpeechModel:
    """What a transcription needs of a compiled model.

    Attributes:
        open: starts a decoder session on windows [B, mels, frames].
        search: runs `generation.search`.
    """

    open: Callable[[Frames], DecoderSession]
    search: Callable[..., Tokens]


def transcribe(
    model: SpeechModel,
    speech: SpeechSettings,
    features: Frames,
    frames: Tokens,
    settings: GenerationSettings,
    **options: Any,
) -> Tokens:
    """Transcribe a batch; see `transcribe_windows` for arguments and errors.

    Args:
        model, speech, features, frames, settings, options: as there.

    Returns:
        int64 [B, n]: the new tokens of each row without start and end tokens, padded on the right.
    """
    _, rows = transcribe_windows(model, speech, features, frames, settings, **options)
    written = [[token for window in row for token in window.tokens] for row in rows]
    return _padded(written, settings.pad_token_id or 0)


def transcribe_windows(
    model: SpeechModel,
    speech: SpeechSettings,
    features: Frames,
    frames: Tokens,
    settings: GenerationSettings,
    *,
    vocabulary: int,
    language: str | Sequence[str] | None = None,
    task: str | None = None,
    return_timestamps: bool | None = None,
    prompt_ids: npt.ArrayLike | None = None,
) -> tuple[Tokens, list[list[Window]]]:
    """Transcribe a batch, window by window.

    Args:
        model: runs the encoder and the search.
        speech: of the model.
        features: log-mel spectrograms, float32 [B, mels, T].
        frames: int64 [B], the frames of each row that count.
        settings: of the search.
        vocabulary: number of tokens.
        language: of the speech, one or one per row; None detects it, unless the model has a default.
        task: "transcribe" or "translate".
        return_timestamps: whether the output has timestamps; needed beyond one window.
        prompt_ids: integers [q], tokens before the start token, such as names that occur.

    Returns:
        The prompts of the rows, int64 [B, q], which name the language; and the windows of each row.

    Raises:
        GenerationError: the model has no such language or task, or no timestamps; the audio is longer than a
            window and has no timestamps; it is to be sampled.
    """
    if settings.do_sample:
        raise GenerationError("do_sample=True: speech is transcribed by greedy or beam search; leave it out")
    if settings.num_return_sequences != 1:
        raise GenerationError(
            f"num_return_sequences={settings.num_return_sequences}: expected 1, as what follows in the audio "
            "depends on what was written"
        )
    timed = _timed(speech, features.shape[2], return_timestamps)
    prompts = _Prompts(model, speech, settings, timed).tokens(features, language, task)
    if prompt_ids is not None:
        before = np.asarray(prompt_ids, np.int64).reshape(1, -1).repeat(len(prompts), axis=0)
        prompts = np.concatenate([before, prompts], axis=1)
    first = speech.first_timestamp(vocabulary)
    end = settings.eos_token_id[0] if settings.eos_token_id else settings.bos_token_id or 0
    start = prompts.shape[1]
    rules = [Timestamps(first, end, start, speech.max_initial_timestamp_index)] if timed else []
    seek, written = np.zeros(len(features), np.int64), [list[Window]() for _ in features]
    while (open_rows := np.flatnonzero(seek < frames)).size:
        left = np.minimum(frames[open_rows] - seek[open_rows], speech.window)
        windows = np.zeros((len(open_rows), features.shape[1], speech.window), np.float32)
        for place, (row, count) in enumerate(zip(open_rows, left, strict=True)):
            windows[place, :, :count] = features[row, :, seek[row] : seek[row] + count]
        settings = _with_room(settings, speech, start)
        outputs = model.search(model.open(windows), settings, prompts[open_rows], more_rules=rules)
        for row, count, output in zip(open_rows, left, outputs[:, start:].tolist(), strict=True):
            tokens = _without_end(output, settings)
            kept, advance = _segment(tokens, first, int(count), speech.stride)
            written[row].append(Window(int(seek[row]), advance, kept))
            seek[row] += advance
    return prompts, written


def _timed(speech: SpeechSettings, length: int, asked: bool | None) -> bool:
    if asked not in (None, False, True):
        raise GenerationError(
            f"return_timestamps={asked!r}: expected True or False; timestamps of words are not supported"
        )
    timed = speech.return_timestamps if asked is None else asked
    if length > speech.window:
        if asked is False:
            raise GenerationError(
                f"input_features has {length} frames and a window {speech.window}: longer audio needs "
                "return_timestamps=True, which tell where the next window starts"
            )
        timed = True
    if timed and speech.no_timestamps_token_id is None:
        raise GenerationError("return_timestamps: this model's generation config names no timestamp tokens")
    return timed


@dataclass(frozen=True)
class _Prompts:
    """The decoder's first tokens: start, language, task, and whether there are timestamps."""

    model: SpeechModel
    speech: SpeechSettings
    settings: GenerationSettings
    timed: bool

    def tokens(self, features: Frames, language: str | Sequence[str] | None, task: str | None) -> Tokens:
        """The prompt of every row, int64 [B, q]."""
        speech, rows = self.speech, len(features)
        if not speech.is_multilingual and (language is not None or task is not None):
            raise GenerationError("language and task: this model knows one language only; leave them out")
        chosen_task = speech.task if task is None else task
        chosen = speech.language if language is None else language
        start = self.settings.decoder_start_token_id
        if not isinstance(start, int):
            raise GenerationError("decoder_start_token_id: expected one token to start every output with")
        head: list[int | None] = [start]
        if chosen is None and chosen_task is None:
            head += speech.forced_decoder_ids
        codes: list[int] | None = None
        if chosen is not None:
            names = [chosen] * rows if isinstance(chosen, str) else list(chosen)
            if len(names) != rows:
                raise GenerationError(f"language has {len(names)} entries: expected one per row ({rows})")
            codes = [self._language(name) for name in names]
        elif speech.lang_to_id and (len(head) == 1 or head[1] is None):
            codes = self._detected(features, start)
        each = [None] * rows if codes is None else codes
        return np.array([self._row(head, code, chosen is not None, chosen_task) for code in each], np.int64)

    def _row(self, head: list[int | None], language: int | None, named: bool, task: str | None) -> list[int]:
        speech, row = self.speech, list(head)
        if language is not None:
            row[1:2] = [language]
        tasks = speech.task_to_id
        if task is not None:
            if task not in tasks:
                raise GenerationError(f"task {task!r}: expected one of {', '.join(tasks) or 'none'}")
            row = [tasks[task] if token in tasks.values() else token for token in row]
            row += [] if tasks[task] in row else [tasks[task]]
        elif named and tasks and not any(token in tasks.values() for token in row):
            row.append(tasks["transcribe"])
        untimed = speech.no_timestamps_token_id
        if self.timed and row[-1] == untimed:
            row.pop()
        elif not self.timed and untimed is not None and row[-1] != untimed:
            row.append(untimed)
        return [token for token in row if token is not None]

    def _language(self, name: str) -> int:
        known, wanted = self.speech.lang_to_id, name.lower()
        code = wanted if wanted in known else f"<|{self.speech.languages.get(wanted, wanted)}|>"
        if code not in known:
            codes = [each.strip("<|>") for each in known]
            raise GenerationError(
                f"language {name!r} is not one of this model's.{did_you_mean(wanted, codes)}"
            )
        return known[code]

    def _detected(self, features: Frames, start: int) -> list[int]:
        windows = np.zeros((*features.shape[:2], self.speech.window), np.float32)
        count = min(features.shape[2], self.speech.window)
        windows[:, :, :count] = features[:, :, :count]
        logits = self.model.open(windows).step(np.full((len(features), 1), start, np.int64))
        ids = np.array(sorted(self.speech.lang_to_id.values()))
        return [int(each) for each in ids[logits[:, ids].argmax(axis=1)]]


def _with_room(settings: GenerationSettings, speech: SpeechSettings, start: int) -> GenerationSettings:
    """Do not count the prompt, up to half of the positions, as part of the longest output."""
    if settings.max_new_tokens is not None:
        if settings.max_new_tokens + start > speech.max_target_positions:
            raise GenerationError(
                f"max_new_tokens={settings.max_new_tokens} after a prompt of {start} tokens: the model has "
                f"{speech.max_target_positions} positions"
            )
        return settings
    if settings.max_length is None:
        return settings
    counted = min(speech.max_target_positions // 2 - 1, start)
    return settings.replace(max_length=min(settings.max_length + counted, speech.max_target_positions))


def _without_end(tokens: list[int], settings: GenerationSettings) -> list[int]:
    """A row without padding and end token. As in transformers, every pad token counts as one at the end."""
    pad = settings.pad_token_id
    if tokens and tokens[-1] == pad:
        count = tokens.count(pad) - (pad in settings.eos_token_id)
        tokens = tokens[: len(tokens) - count]
    return tokens[:-1] if tokens and tokens[-1] in settings.eos_token_id else tokens


def _segment(tokens: list[int], first: int, frames: int, stride: int) -> tuple[list[int], int]:
    """What of a window's output is kept, and how many frames it covers.

    Args:
        tokens: the output.
        first: the first timestamp.
        frames: of the window.
        stride: frames per timestamp.

    Returns:
        All of it and the whole window; but what follows the last pair of timestamps, an unfinished segment,
        is left to the next window.
    """
    is_time = [token >= first for token in tokens]
    pairs = [index + 1 for index in range(len(tokens) - 1) if is_time[index] and is_time[index + 1]]
    if not pairs or is_time[-2:] == [False, True]:
        return tokens, frames
    last = pairs[-1] + 1
    advance = (tokens[last - 2] - first) * stride
    return tokens[:last], advance or frames  # an empty segment would come again for ever


def _padded(rows: list[list[int]], pad: int) -> Tokens:
    longest = max(map(len, rows))
    return np.array([row + [pad] * (longest - len(row)) for row in rows], np.int64)
