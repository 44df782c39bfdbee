"""Samples of a recording in WAV, FLAC, Ogg or MP3, at the rate that a model wants."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from tbt_compile.errors import ServingError
from tbt_compile.runtime.batching import StoppedError
from tbt_compile.serving.log_mel import Samples

_BLOCK = 2**17
"""Samples of all channels that are decoded at a time."""
_RATES = range(1000, 384_001)


def read_samples(
    data: bytes, rate: int, most_seconds: float, stopped: Callable[[], bool] = lambda: False
) -> Samples:
    """Decode a recording, mix its channels, and resample it.

    A small file may hold hours of silence: no more is decoded than may be.

    Args:
        data: a file.
        rate: samples per second of the result.
        most_seconds: that it may last.
        stopped: asked after every part whether nobody waits any more.

    Returns:
        float32 [n].

    Raises:
        StoppedError: nobody waits.
        ServingError: the file is no recording, empty, damaged or too long.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            samples = _mixed(file, rate, most_seconds, stopped)
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(error).rpartition(">: ")[2].rstrip(".")  # without the name of what was opened
        raise ServingError(
            f"file: this recording cannot be read ({reason}): expected WAV, FLAC, Ogg or MP3"
        ) from error
    if not len(samples):
        raise ServingError(f"file: the recording is empty, or shorter than a sample at {rate} a second")
    if not np.isfinite(samples).all():
        raise ServingError("file: the recording holds samples that are not finite numbers")
    return samples


def _mixed(file: Any, rate: int, most_seconds: float, stopped: Callable[[], bool]) -> Samples:
    """The samples of an open file, with one channel."""
    import soxr

    if file.samplerate not in _RATES:
        raise ServingError(
            f"file: the recording has {file.samplerate} samples a second: expected {_RATES[0]} to "
            f"{_RATES[-1]}"
        )
    resampler = soxr.ResampleStream(file.samplerate, rate, 1, "float32")
    parts: list[Samples] = []
    count = 0
    for block in file.blocks(max(1, _BLOCK // file.channels), dtype="float32", always_2d=True):
        if stopped():
            raise StoppedError
        count += len(block)
        if count > most_seconds * file.samplerate:
            raise ServingError(
                f"file: the recording is longer than {most_seconds:g} seconds, the limit of this service: "
                "split it"
            )
        mixed = block.mean(axis=1)
        parts.append(mixed if file.samplerate == rate else resampler.resample_chunk(mixed))
    if file.samplerate != rate and count:
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate([np.zeros(0, np.float32), *parts])
