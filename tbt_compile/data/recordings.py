"""Recordings with their transcripts, for models that take the features of speech."""

from __future__ import annotations

import hashlib
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tbt_compile.data.batches import pad_right
from tbt_compile.data.examples import IGNORED_LABEL, Collator, Examples, Row, RowDataset
from tbt_compile.data.records import Reader, Record, text_at
from tbt_compile.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor

Features = npt.NDArray[np.float32]
_PCM = 2  # bytes of a sample


@dataclass(frozen=True)
class Recording:
    """Features of speech, float32 of one shape for all, such as log-mel `[mels, frames]`, and its text."""

    features: Features
    text: str


def feature_extractor(folder: str | Path) -> SequenceFeatureExtractor | None:
    """The feature extractor in a model's folder; None if there is none."""
    from transformers import AutoFeatureExtractor

    if not (Path(folder) / "preprocessor_config.json").is_file():
        return None
    found: SequenceFeatureExtractor = AutoFeatureExtractor.from_pretrained(str(folder), local_files_only=True)
    return found


def recording_reader(
    folder: Path, extractor: SequenceFeatureExtractor | None, audio_field: str, text_field: str
) -> Reader[Recording]:
    """A reader of records that name a file and hold its transcript.

    Args:
        folder: to which the names of files are relative.
        extractor: of the model, makes features of audio; None: every file holds features.
        audio_field: field with the name of a file: .npy with features, or .wav with 16-bit samples.
        text_field: field of the transcript.
    """

    def parse(record: Record, where: str) -> Recording:
        path = folder / text_at(record, audio_field, where)
        return Recording(_features(path, extractor, where), text_at(record, text_field, where))

    return Reader(parse, (audio_field, text_field))


def _features(path: Path, extractor: SequenceFeatureExtractor | None, where: str) -> Features:
    try:
        if path.suffix == ".npy":
            return np.load(path).astype(np.float32)
        samples, rate = _samples(path)
    except (OSError, ValueError, EOFError, wave.Error) as error:
        raise DataError(
            f"{where}: {path} cannot be read ({error}): expected .npy with features, or .wav with one "
            "channel of 16-bit samples"
        ) from error
    if extractor is None:
        raise DataError(
            f"{where}: {path} is audio, and the teacher's folder has no preprocessor_config.json to make "
            "features of it: save its feature extractor there, or give features as .npy"
        )
    if rate != extractor.sampling_rate:
        raise DataError(
            f"{where}: {path} has {rate} samples a second: expected {extractor.sampling_rate}; resample it"
        )
    made = extractor(samples, sampling_rate=rate, return_tensors="np")
    features: Features = made[extractor.model_input_names[0]][0]
    return features


def _samples(path: Path) -> tuple[Features, int]:
    """The samples of a .wav file, from -1 to 1, and their rate."""
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, _PCM):
            raise ValueError(f"{file.getnchannels()} channels of {8 * file.getsampwidth()} bits")
        data = file.readframes(file.getnframes())
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(2**15), file.getframerate()


@dataclass(frozen=True)
class SpeechCorpus(Examples):
    """Recordings, and how their transcripts become labels.

    Attributes:
        recordings: features and texts.
        tokenizer: of the model; Whisper's writes language and task in front.
        max_target: tokens of a transcript; longer ones are cut.
        start: the decoder's start token, which models put in front of labels themselves.
        name: the argument of the model's forward that takes the features.
        extractor: what made the features of audio, saved with the model; None: nothing.
    """

    recordings: Sequence[Recording]
    tokenizer: PreTrainedTokenizerBase
    max_target: int
    start: int
    name: str = "input_features"
    extractor: SequenceFeatureExtractor | None = None

    def __len__(self) -> int:
        return len(self.recordings)

    def dataset(self) -> RowDataset:
        """Rows of features and `labels`."""
        texts = [recording.text for recording in self.recordings]
        ids = self.tokenizer(text_target=texts, truncation=True, max_length=self.max_target)["input_ids"]
        labels = [row[1:] if row[0] == self.start else row for row in ids]
        rows: list[Row] = [
            {self.name: recording.features, "labels": row}
            for recording, row in zip(self.recordings, labels, strict=True)
        ]
        return RowDataset(rows, [len(row) for row in labels])

    def collator(self) -> Collator:
        """Puts features together, and pads labels."""
        return SpeechCollator(self.name)

    def record(self) -> dict[str, Any]:
        """A hash of features and texts, and the maximum length."""
        found = hashlib.sha256()
        for recording in self.recordings:
            found.update(np.ascontiguousarray(recording.features).tobytes() + recording.text.encode())
        number = len(self.recordings)
        return {
            "data": f"{number} recordings, sha256 {found.hexdigest()[:16]}",
            "max_target_length": self.max_target,
        }

    def save(self, folder: Path) -> None:
        """Save the tokenizer and the feature extractor."""
        self.tokenizer.save_pretrained(folder)
        if self.extractor is not None:
            self.extractor.save_pretrained(folder)


@dataclass(frozen=True)
class SpeechCollator:
    """Makes batches of rows of a `SpeechCorpus`: features float32 `[B, ...]`, `labels` int64 `[B, T]`."""

    name: str

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return {
            self.name: torch.from_numpy(np.stack([row[self.name] for row in rows])),
            "labels": pad_right([row["labels"] for row in rows], IGNORED_LABEL),
        }
