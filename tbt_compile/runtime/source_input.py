"""What a model generates from: token ids, or the features of images or audio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import GenerationSettings, Tokens
from tbt_compile.runtime.input_checks import Limits, checked_batch


@dataclass(frozen=True)
class Features:
    """The one tensor that an encoder reads.

    Attributes:
        name: the argument, as the model's processor calls it: "pixel_values", "input_features".
        shape: of one row.
        states: the number of positions that the encoder makes of a row.
    """

    name: str
    shape: tuple[int, ...]
    states: int

    @classmethod
    def recorded(cls, description: Mapping[str, Any]) -> Features | None:
        """Read them from a manifest; None if the model takes token ids."""
        found = description.get("features")
        return None if found is None else cls(found["name"], tuple(found["shape"]), found["states"])

    def checked(self, value: Any, any_length: bool = False) -> npt.NDArray[np.float32]:
        """Check features.

        Args:
            value: floats [B, *shape]; a tensor of PyTorch too. Half precision is converted exactly, float64
                is rounded.
            any_length: whether the last dimension may have another size.

        Returns:
            float32 [B, *shape].

        Raises:
            GenerationError: the shape or the dtype is another.
        """
        whole = value.float() if hasattr(value, "detach") else value  # NumPy has no bfloat16
        try:
            array = np.asarray(whole)
        except ValueError as error:
            raise GenerationError(f"{self.name} is not an array ({error})") from error
        shape = (*self.shape[:-1], *array.shape[-1:]) if any_length else self.shape
        if array.dtype.kind != "f" or array.ndim == 0 or array.shape[1:] != shape or not array.size:
            raise GenerationError(
                f"{self.name} is {array.dtype} of shape {list(array.shape)}: expected floats "
                f"[batch, {', '.join(map(str, self.shape))}], as the model's processor makes them"
            )
        return array.astype(np.float32)


@dataclass(frozen=True)
class SourceInput:
    """The source of one model, and the checks of a call's.

    Attributes:
        model: its class, for messages.
        features: what it takes in place of token ids, if it does.
        limits: of the model.
    """

    model: str
    features: Features | None
    limits: Limits

    def take(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take the features out of the keyword arguments of a call."""
        name = None if self.features is None else self.features.name
        return {name: given.pop(name)} if name in given else {}

    def checked(
        self,
        input_ids: npt.ArrayLike | None,
        attention_mask: npt.ArrayLike | None,
        given: dict[str, Any],
        settings: GenerationSettings | None = None,
    ) -> tuple[npt.NDArray[Any], Tokens]:
        """Check the source of a call.

        Args:
            input_ids: integers [B, S], or None.
            attention_mask: integers [B, S], or None.
            given: what `take` took.
            settings: of the search, for the padding token.

        Returns:
            Ids, int64 [B, S], or features, float32 [B, ...]; and the mask that the decoder reads, int64
            [B, S]. Where the model cannot encode S tokens but more, they are padded.

        Raises:
            GenerationError: they do not fit the model.
        """
        if self.features is not None:
            if input_ids is not None or attention_mask is not None:
                raise self._refusal(self.features)
            features = self.features.checked(self._features(given))
            _refuse_others(given)
            return features, self.mask(features)
        _refuse_others(given)
        if input_ids is None:
            raise GenerationError("input_ids is missing: expected integers [batch, length]")
        if self.limits.width is None:
            pad_token = None if settings is None else settings.inferred_padding
            return checked_batch(input_ids, attention_mask, self.limits.source, "left", pad_token)
        ids, mask = checked_batch(input_ids, attention_mask, self.limits.source)
        return self.padded(ids, mask)

    def padded(self, ids: Tokens, mask: Tokens) -> tuple[Tokens, Tokens]:
        """Pad a source, int64 [B, S], to a length that the model can encode; a prompt stays."""
        if self.limits.width is None:
            return ids, mask
        more = ((0, 0), (0, self.limits.more_padding(ids.shape[1])))
        return np.pad(ids, more), np.pad(mask, more)

    def arguments(self, source: npt.NDArray[Any], mask: Tokens) -> list[npt.NDArray[Any]]:
        """What the encoder takes of a source that `checked` returned."""
        if self.features is not None:
            return [source]
        if self.limits.block == 1:
            return [source, mask]
        return [each.reshape(len(each), -1, self.limits.block) for each in (source, mask)]

    def audio(
        self, input_ids: Any, attention_mask: Any, given: dict[str, Any]
    ) -> tuple[npt.NDArray[np.float32], Tokens]:
        """Check the audio of a call, of any length.

        Args:
            input_ids: None.
            attention_mask: integers [B, T], 1 for the frames of each row that count; None for all.
            given: the other keyword arguments of the call; features are taken out.

        Returns:
            float32 [B, mels, T], and the frames of each row that count, int64 [B].

        Raises:
            GenerationError: they do not fit the model.
        """
        assert self.features is not None
        if input_ids is not None:
            raise self._refusal(self.features)
        audio = self.features.checked(self._features(given), any_length=True)
        if attention_mask is None:
            return audio, np.full(len(audio), audio.shape[2], np.int64)
        frames = np.asarray(attention_mask)
        if frames.shape != (len(audio), audio.shape[2]):
            raise GenerationError(
                f"attention_mask has shape {list(frames.shape)}: expected {[len(audio), audio.shape[2]]}, "
                "one entry per frame"
            )
        return audio, frames.astype(np.int64).sum(axis=1)

    def mask(self, features: npt.NDArray[Any]) -> Tokens:
        """The mask over the encoder's output of some features, int64 [B, S]: all of it is attended to."""
        assert self.features is not None
        return np.ones((len(features), self.features.states), np.int64)

    def _features(self, given: dict[str, Any]) -> Any:
        assert self.features is not None
        if self.features.name not in given:
            raise self._refusal(self.features)
        return given.pop(self.features.name)

    def _refusal(self, features: Features) -> GenerationError:
        name = features.name
        return GenerationError(
            f"{self.model} takes {name} alone, in place of input_ids and attention_mask: use "
            f"generate({name}=...)"
        )


def _refuse_others(given: Mapping[str, Any]) -> None:
    if given:
        raise GenerationError(f"unknown argument {next(iter(given))!r}")
