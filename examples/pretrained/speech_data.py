"""Speech to train and to test on: sentences spoken by espeak-ng, and recordings of people."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.data.recordings import Recording, recording_reader
from tbt_compile.data.records import read_lines
from tbt_compile.errors import DataError
from tbt_compile.evaluation.scores import sentences
from tbt_compile.progress import Progress
from tbt_compile.storage.atomic_write import atomic_write

RATE = 16_000
"""Samples a second that Whisper hears."""
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f3", "en-gb+m4")
RECORDED = Path("/usr/share/pocketsphinx/test/data")
"""Of Debian's package `pocketsphinx-testdata`."""
_PLAIN = re.compile(r"[A-Z][a-z]+( [a-zA-Z]{1,12},?)+\.")
_WORDS = range(4, 13)
_TRANSCRIPT = re.compile(r"(?:<s> )?(?P<text>.*?)\s*</s> \((?P<name>\S+)\)")
_PCM = 2**15


def plain_sentences(texts: Iterable[str], count: int) -> list[str]:
    """Sentences of 4 to 12 plain words, without digits and names of files; each once.

    Args:
        texts: to take them from.
        count: of them, at most.
    """
    kept: dict[str, None] = {}
    for text in texts:
        for sentence in sentences(text):
            if len(sentence.split()) in _WORDS and _PLAIN.fullmatch(sentence):
                kept.setdefault(sentence)
        if len(kept) >= count:
            break
    return list(kept)[:count]


def require_espeak() -> str:
    """The program `espeak-ng`.

    Raises:
        DataError: it is not installed.
    """
    found = shutil.which("espeak-ng")
    if found is None:
        raise DataError("espeak-ng speaks the texts and is not installed: run `apt-get install espeak-ng`")
    return found


def speak(folder: Path, name: str, texts: Sequence[str], seconds: int, progress: Progress) -> int:
    """Speak texts in several voices and write a split: .wav files and NAME.jsonl.

    Args:
        folder: of the data set.
        name: of the split.
        texts: one recording each; those that take longer than a window are left out.
        seconds: of a window.
        progress: called with a description and the share done.

    Returns:
        The number of recordings.

    Raises:
        DataError: espeak-ng is not installed.
    """
    espeak, lines = require_espeak(), []
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        progress(f"speaking {name}", number / len(texts))
        samples = _spoken(espeak, VOICES[number % len(VOICES)], 130 + 10 * (number % 7), text)
        if len(samples) <= seconds * RATE:
            file = f"{name}/{number}.wav"
            _write(folder / file, samples)
            lines.append(json.dumps({"source": file, "target": text}))
    with atomic_write(folder / f"{name}.jsonl") as draft:
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def _spoken(espeak: str, voice: str, words_a_minute: int, text: str) -> npt.NDArray[np.float64]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run([espeak, "-v", voice, "-s", str(words_a_minute), "-w", file.name, text], check=True)
        with wave.open(file.name, "rb") as spoken:
            data = np.frombuffer(spoken.readframes(spoken.getnframes()), "<i2").astype(np.float64) / _PCM
            return resampled(data, spoken.getframerate(), RATE)


def resampled(samples: npt.NDArray[np.float64], rate: int, wanted: int) -> npt.NDArray[np.float64]:
    """Samples at a lower rate, without the frequencies that it cannot hold.

    Args:
        samples: of one channel.
        rate: of them, a second.
        wanted: rate of the result.

    >>> tone = np.sin(2 * np.pi * 5 * np.arange(200) / 200)
    >>> bool(np.allclose(resampled(tone, 200, 100), tone[::2]))
    True
    """
    count = len(samples) * wanted // rate
    spectrum = np.fft.rfft(samples)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * (count / len(samples))


def _write(path: Path, samples: npt.NDArray[np.float64]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * (_PCM - 1)).astype("<i2").tobytes())


def read_recordings(folder: Path, name: str, extractor: Any) -> Sequence[Recording]:
    """A split that `speak` wrote, as features.

    Args:
        folder: of the data set.
        name: of the split.
        extractor: of the model.
    """
    return read_lines(folder / f"{name}.jsonl", recording_reader(folder, extractor, "source", "target"))


def recordings_of_people(extractor: Any, seconds: int, root: Path = RECORDED) -> list[Recording]:
    """The recordings of Debian's pocketsphinx-testdata that fit a window; none if it is not installed.

    Args:
        extractor: of the model.
        seconds: of a window.
        root: where the package has its data.
    """
    reader = recording_reader(root, extractor, "source", "target")
    return [
        reader({"source": str(file), "target": text}, str(file))
        for file, text in _transcripts(root)
        if _seconds(file) <= seconds
    ]


def _transcripts(root: Path) -> Iterator[tuple[Path, str]]:
    for path in (root / "cards" / "cards.transcription", root / "librivox" / "transcription"):
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            found = _TRANSCRIPT.search(line)
            if found is not None:
                yield path.parent / f"{found['name']}.wav", found["text"]


def _seconds(file: Path) -> float:
    with wave.open(str(file), "rb") as opened:
        return opened.getnframes() / opened.getframerate()
