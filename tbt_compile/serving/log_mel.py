"""Log-mel spectrograms, as Whisper's feature extractor makes them, in NumPy alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import FormatError

FILES = ("preprocessor_config.json", "processor_config.json")
_KIND = "WhisperFeatureExtractor"
_FIELDS = ("feature_size", "sampling_rate", "n_fft", "hop_length")
Samples = npt.NDArray[np.float32]
_TOP_HERTZ, _FLOOR, _RANGE = 8000.0, 1e-10, 8.0
_LINEAR_MELS, _LINEAR_HERTZ, _STEP = 15.0, 1000.0, np.log(6.4) / 27.0
_BLOCK = 3000
"""Frames whose spectra are computed at a time."""


@dataclass(frozen=True)
class LogMel:
    """The features of a Whisper model.

    Attributes:
        mels: filters, the rows of a spectrogram.
        rate: samples per second.
        size: samples of a Fourier transform.
        hop: samples from one frame to the next.
    """

    mels: int
    rate: int
    size: int
    hop: int

    @classmethod
    def read(cls, folder: Path, mels: int) -> LogMel:
        """Read the config of the feature extractor in a folder.

        Args:
            folder: of a compiled model.
            mels: that the model takes.

        Raises:
            FormatError: there is none, or one that does not fit the model or is of another kind.
        """
        path = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if path is None:
            raise FormatError(
                f"{folder} has no {FILES[0]}: save the model's feature extractor in its folder with "
                "save_pretrained and lower it again"
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found = found.get("feature_extractor", found)
            made = cls(*(int(found[name]) for name in _FIELDS))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{path} is no config of a feature extractor of Whisper ({error!r})") from error
        kind = found.get("feature_extractor_type", _KIND)
        if kind != _KIND or found.get("dither") or min(made.rate, made.size, made.hop) < 1:
            raise FormatError(f"{path} is of a {kind}: expected a {_KIND} without dither")
        if made.mels != mels:
            raise FormatError(f"{path} makes {made.mels} mels, and the model takes {mels}")
        return made

    def spectrogram(self, samples: Samples, least: int) -> Samples:
        """The spectrogram of a recording.

        Args:
            samples: float32 [n], from -1 to 1.
            least: frames to which a shorter recording is padded with silence.

        Returns:
            float32 [mels, frames], one frame per `hop` samples.
        """
        half = self.size // 2
        padded = np.pad(samples.astype(np.float64), (0, max(0, least * self.hop - len(samples))))
        padded = np.pad(padded, half, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.size)[:: self.hop][:-1]
        found = np.empty((self.mels, len(frames)), np.float32)
        for start in range(0, len(frames), _BLOCK):
            spectra = np.fft.rfft(frames[start : start + _BLOCK] * self._window)
            power = spectra.real**2 + spectra.imag**2
            found[:, start : start + _BLOCK] = np.log10(np.maximum(_FLOOR, power @ self._filters)).T
        np.maximum(found, found.max() - np.float32(_RANGE), out=found)
        return (found + np.float32(4)) / np.float32(4)

    @cached_property
    def _window(self) -> npt.NDArray[np.float64]:
        """A periodic Hann window."""
        return np.hanning(self.size + 1)[:-1]

    @cached_property
    def _filters(self) -> npt.NDArray[np.float64]:
        """Triangles on Slaney's scale, each of the same area: float64 [size / 2 + 1, mels]."""
        edges = _hertz(np.linspace(0, _mel(_TOP_HERTZ), self.mels + 2))
        bins = np.linspace(0, self.rate // 2, 1 + self.size // 2)
        distances, widths = edges - bins[:, None], np.diff(edges)
        rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
        triangles = np.maximum(0, np.minimum(rising, falling))
        scaled: npt.NDArray[np.float64] = triangles * (2 / (edges[2:] - edges[:-2]))
        return scaled


def _mel(hertz: float) -> float:
    """Slaney's scale above its linear part."""
    return float(_LINEAR_MELS + np.log(hertz / _LINEAR_HERTZ) / _STEP)


def _hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _LINEAR_HERTZ * np.exp(_STEP * (mels - _LINEAR_MELS))
    return np.where(mels >= _LINEAR_MELS, above, mels * 200 / 3)
