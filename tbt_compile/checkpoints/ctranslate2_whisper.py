"""Whisper as CTranslate2 stores it, with the names and shapes of transformers.

CTranslate2 stacks the projections of an attention that read the same input: queries, keys and values of
self-attention, keys and values of cross-attention. Whisper's keys have no bias; it is stored as zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

from tbt_compile.checkpoints.ctranslate2_file import read_model
from tbt_compile.checkpoints.source import Checkpoint
from tbt_compile.errors import FormatError

_MULTILINGUAL_VOCABULARY = 51865
"""OpenAI's vocabularies from this size on have languages; English-only ones have a token less."""
_END, _START, _UNTIMED = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"


class _Place(NamedTuple):
    """Where a parameter lies: in a tensor, or in one of several equal parts of it."""

    name: str
    part: int = 0
    parts: int = 1


class CTranslate2Whisper(Checkpoint):
    """A folder with `model.bin`, `config.json` and a vocabulary, in float32 or float16."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        specification, self._tensors = read_model(self.path / "model.bin")
        if specification != "WhisperSpec":
            raise FormatError(f"{path} holds a {specification} of CTranslate2: expected a WhisperSpec")
        try:
            layers = {side: self._layers(side) for side in ("encoder", "decoder")}
            self._places = dict(_places(layers))
            self._check_keys()
            tokens = _Tokens(self.path)
            self.config = self._config(layers, tokens)
            self.generation = tokens.generation(self.config)
        except (KeyError, ValueError, IndexError, TypeError, OSError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"{path} does not describe a Whisper ({type(error).__name__}: {error}): expected a folder as "
                "CTranslate2's converter writes it, with model.bin, config.json and a vocabulary"
            ) from error

    def _layers(self, side: str) -> int:
        inner = (f"{side}/layer_", "/ffn/linear_0/weight")
        return sum(name.startswith(inner[0]) and name.endswith(inner[1]) for name in self._tensors)

    def _check_keys(self) -> None:
        """Refuse keys with a bias, which transformers' Whisper does not have."""
        for name, place in list(self._places.items()):
            if name.endswith("k_proj.bias"):
                if self._part(place).any():
                    raise FormatError(f"{place.name} in {self.path} has a bias of keys: a Whisper has none")
                del self._places[name]

    def _config(self, layers: dict[str, int], tokens: _Tokens) -> WhisperConfig:
        vocabulary, width = self._tensors["decoder/embeddings/weight"].shape
        start, end = tokens.id(_START), tokens.id(_END)
        return WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            encoder_layers=layers["encoder"],
            decoder_layers=layers["decoder"],
            encoder_attention_heads=int(self._tensors["encoder/num_heads"]),
            decoder_attention_heads=int(self._tensors["decoder/num_heads"]),
            encoder_ffn_dim=len(self._tensors["encoder/layer_0/ffn/linear_0/weight"]),
            decoder_ffn_dim=len(self._tensors["decoder/layer_0/ffn/linear_0/weight"]),
            num_mel_bins=self._tensors["encoder/conv1/weight"].shape[1],
            max_source_positions=len(self._tensors["encoder/position_encodings/encodings"]),
            max_target_positions=len(self._tensors["decoder/position_encodings/encodings"]),
            decoder_start_token_id=start,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            suppress_tokens=None,  # these are in the generation config
            begin_suppress_tokens=None,
            architectures=["WhisperForConditionalGeneration"],
        )

    @property
    def names(self) -> Iterable[str]:
        """The names of the model's parameters."""
        return self._places

    def unread(self) -> list[str]:
        """Parameters not read, and the file's own tensors that no parameter takes; scalars are settings."""
        known = {place.name for place in self._places.values()} | {"decoder/projection/weight"}
        left = [name for name, tensor in self._tensors.items() if tensor.ndim and name not in known]
        return [*super().unread(), *left]

    def read(self, name: str) -> Tensor:
        """Read a parameter in the dtype of the file."""
        place = self._places[name]
        if place.name not in self._tensors:
            raise FormatError(f"{self.path} holds no {place.name}: expected the weights of a Whisper")
        found = self._part(place)
        if not np.issubdtype(found.dtype, np.floating):
            raise FormatError(
                f"{place.name} in {self.path} is {found.dtype}: expected float32 or float16; convert the "
                "model without quantization"
            )
        return torch.from_numpy(np.array(found))

    def _part(self, place: _Place) -> Any:
        return np.split(self._tensors[place.name], place.parts)[place.part]


def _places(layers: dict[str, int]) -> Iterable[tuple[str, _Place]]:
    """The place of each parameter, by its name in transformers."""
    for side, count in layers.items():
        ours, theirs = f"model.{side}", side
        yield f"{ours}.embed_positions.weight", _Place(f"{theirs}/position_encodings/encodings")
        yield from _norm(f"{ours}.layer_norm", f"{theirs}/layer_norm")
        for index in range(count):
            layer, stored = f"{ours}.layers.{index}", f"{theirs}/layer_{index}"
            yield from _attention(f"{layer}.self_attn", f"{stored}/self_attention", ("q", "k", "v"))
            if side == "decoder":
                yield from _attention(f"{layer}.encoder_attn", f"{stored}/attention", ("q",), ("k", "v"))
            yield from _norm(f"{layer}.final_layer_norm", f"{stored}/ffn/layer_norm")
            yield from _linear(f"{layer}.fc1", f"{stored}/ffn/linear_0")
            yield from _linear(f"{layer}.fc2", f"{stored}/ffn/linear_1")
    yield from _linear("model.encoder.conv1", "encoder/conv1")
    yield from _linear("model.encoder.conv2", "encoder/conv2")
    yield "model.decoder.embed_tokens.weight", _Place("decoder/embeddings/weight")


def _attention(ours: str, theirs: str, *stacks: tuple[str, ...]) -> Iterable[tuple[str, _Place]]:
    for number, stack in enumerate(stacks):
        for part, projection in enumerate(stack):
            yield from _linear(f"{ours}.{projection}_proj", f"{theirs}/linear_{number}", part, len(stack))
    yield from _linear(f"{ours}.out_proj", f"{theirs}/linear_{len(stacks)}")
    yield from _norm(f"{ours}_layer_norm", f"{theirs}/layer_norm")


def _linear(ours: str, theirs: str, part: int = 0, parts: int = 1) -> Iterable[tuple[str, _Place]]:
    for kind in ("weight", "bias"):
        yield f"{ours}.{kind}", _Place(f"{theirs}/{kind}", part, parts)


def _norm(ours: str, theirs: str) -> Iterable[tuple[str, _Place]]:
    yield f"{ours}.weight", _Place(f"{theirs}/gamma")
    yield f"{ours}.bias", _Place(f"{theirs}/beta")


class _Tokens:
    """The vocabulary, and what `config.json` says of its tokens."""

    def __init__(self, folder: Path) -> None:
        listed, lines = folder / "vocabulary.json", folder / "vocabulary.txt"
        if listed.is_file():
            names = json.loads(listed.read_text(encoding="utf-8"))
        else:
            names = lines.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self.names: list[str] = names
        self.stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def id(self, name: str) -> int:
        return self.names.index(name)

    def generation(self, config: WhisperConfig) -> GenerationConfig:
        multilingual = config.vocab_size >= _MULTILINGUAL_VOCABULARY
        tasks = {task: self.id(f"<|{task}|>") for task in ("transcribe", "translate")} if multilingual else {}
        languages = {self.names[token]: token for token in self.stated["lang_ids"]} if multilingual else {}
        return GenerationConfig(
            decoder_start_token_id=config.decoder_start_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            max_length=config.max_target_positions,
            suppress_tokens=self.stated["suppress_ids"],
            begin_suppress_tokens=self.stated["suppress_ids_begin"],
            no_timestamps_token_id=self.id(_UNTIMED),
            return_timestamps=False,
            is_multilingual=multilingual,
            **({"lang_to_id": languages, "task_to_id": tasks} if multilingual else {}),
        )


def processors(path: str | Path) -> tuple[WhisperTokenizer, WhisperFeatureExtractor]:
    """The tokenizer in a CTranslate2 folder, and the feature extractor of its model.

    Raises:
        FormatError: there is no tokenizer.json that can be read.
    """
    checkpoint = CTranslate2Whisper(path)
    try:
        tokenizer = WhisperTokenizer.from_pretrained(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path} has no tokenizer that can be read ({error}): expected the tokenizer.json of the model"
        ) from error
    return tokenizer, WhisperFeatureExtractor(feature_size=checkpoint.config.num_mel_bins)
