"""GGUF files, of the architectures that transformers maps, and of BitNet's.

Names, shapes and the order of rows are mapped by transformers' own tables; the types of the tensors are
decoded by the `gguf` package. Ternary types (TQ1_0, TQ2_0) and any other whose values are ternary come out as
codes with scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from tbt_compile.adapters.auto_class import generator_class
from tbt_compile.checkpoints.bitnet import FLOOR
from tbt_compile.checkpoints.source import Checkpoint
from tbt_compile.checkpoints.weightless import weightless
from tbt_compile.errors import FormatError
from tbt_compile.extras import require_extra

_BITNET = "bitnet"
_SENSELESS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
"""Metadata of GGUF's BitNet architecture, which transformers does not map, by the names of its config."""
_Q1_0_SIGNS = 128


class GgufCheckpoint(Checkpoint):
    """A GGUF file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        try:
            reader = _reader(self.path)
            self.architecture = str(reader.get_field("general.architecture").contents())
        except (OSError, ValueError, KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
            raise FormatError(
                f"{path} cannot be read ({error}): expected a whole GGUF file of version 2 or 3, with "
                "tensors of types that the gguf package knows"
            ) from error
        if reader.byte_order != "I":
            raise FormatError(f"{path} has the bytes of another CPU's order: convert it for this machine")
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._check_rotations(reader)
        with self._describing("describes a model that cannot be built"):
            self.config = self._config(reader)
            self.input_floor = FLOOR if self.architecture == _BITNET else None
            self._names, self._processor = self._mapping()

    @contextmanager
    def _describing(self, what: str) -> Iterator[None]:
        """Turn what the libraries raise of values that make no sense into an error that names the file."""
        try:
            yield
        except FormatError:
            raise
        except _SENSELESS as error:
            reason = " ".join(str(error).split())
            raise FormatError(f"{self.path} {what} ({reason}): get the file again") from error

    def _check_rotations(self, reader: Any) -> None:
        """Refuse scaled rotations, which transformers does not read from GGUF."""
        kind = reader.get_field(f"{self.architecture}.rope.scaling.type")
        factors = self._tensors.get("rope_freqs.weight")
        if (kind is not None and kind.contents() != "none") or (
            factors is not None and not bool((factors.data == 1).all())
        ):
            raise FormatError(
                f"{self.path} scales its rotary positions, which is not read from GGUF: convert the original "
                "checkpoint to safetensors"
            )

    def _config(self, reader: Any) -> PreTrainedConfig:
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        if self.architecture == _BITNET:
            return self._bitnet_config(reader)
        try:
            values = load_gguf_checkpoint(str(self.path))["config"]
        except (ValueError, KeyError, NotImplementedError) as error:
            raise FormatError(
                f"{self.path} holds a model of the architecture {self.architecture!r}, which transformers "
                f"does not read from GGUF ({error}): convert the original checkpoint to safetensors"
            ) from error
        config = AutoConfig.for_model(**values)
        config.architectures = [generator_class(config)._model_mapping[type(config)].__name__]
        return config

    def _bitnet_config(self, reader: Any) -> PreTrainedConfig:
        values: dict[str, Any] = {}
        for key, field in _FIELDS.items():
            found = reader.get_field(f"{_BITNET}.{key}")
            if found is not None:
                values[field] = found.contents()
        for token in ("bos", "eos", "padding"):
            found = reader.get_field(f"tokenizer.ggml.{token}_token_id")
            values[f"{token[:3]}_token_id"] = None if found is None else int(found.contents())
        if "vocab_size" not in values and "token_embd.weight" in self._tensors:
            values["vocab_size"] = int(self._tensors["token_embd.weight"].shape[1])
        theta = values.pop("rope_theta", 10000.0)
        return AutoConfig.for_model(
            _BITNET,
            **values,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            hidden_act="silu",  # what this architecture computes in llama.cpp
            tie_word_embeddings="output.weight" not in self._tensors,
            architectures=["BitNetForCausalLM"],
        )

    def _mapping(self) -> tuple[dict[str, str], Any]:
        """The file's name of each parameter, and what restores the order of its rows."""
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        processor = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)(config=self.config.to_dict())
        empty = weightless(self.config, len(self._tensors), self.path)
        try:
            mapped = get_gguf_hf_weights_map(empty, processor)
        except NotImplementedError as error:
            raise FormatError(f"{self.path}: {error}") from error
        if self.architecture == _BITNET:
            mapped |= _sub_norms(self.config.num_hidden_layers)
        return {ours: theirs for theirs, ours in mapped.items() if theirs in self._tensors}, processor

    @property
    def names(self) -> Iterable[str]:
        """The names of the model's parameters that the file has."""
        return self._names

    def unread(self) -> list[str]:
        """Those not read, and the file's own tensors of no parameter; rotations are derived."""
        known = set(self._names.values())
        own = [name for name in self._tensors if name not in known and not name.startswith("rope_freqs.")]
        return [*super().unread(), *own]

    def read(self, name: str) -> Tensor:
        """Decode a tensor, in half precision if it is stored so, else in float32."""
        import gguf

        theirs = self._names[name]
        tensor = self._tensors[theirs]
        kind = gguf.GGMLQuantizationType
        if tensor.tensor_type in (kind.F32, kind.F16):
            values = np.array(tensor.data)
        elif tensor.tensor_type is kind.Q1_0:
            values = _binary(tensor.data, tuple(reversed(tensor.shape.tolist())))
        else:
            try:
                values = gguf.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise FormatError(
                    f"{theirs} in {self.path} is {tensor.tensor_type.name}, which the gguf package does not "
                    "decode: expected another type"
                ) from error
        with self._describing(f"has a {theirs} that does not fit its config"):
            values = self._processor.process(values, name=theirs).weights
        decoded = torch.from_numpy(np.ascontiguousarray(values))
        return decoded.bfloat16() if tensor.tensor_type is kind.BF16 else decoded


def _reader(path: Path) -> Any:
    """Open a file; one that says that it is longer than it is would be read for ever.

    Raises:
        ValueError: it ends too early.
    """
    with require_extra():
        import gguf

    class Bounded(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, **order: Any) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError(f"it ends before byte {offset}")
            return super()._get(offset, dtype, count, **order)

    return Bounded(path)


def _sub_norms(layers: int) -> dict[str, str]:
    """The norms of BitNet whose names in transformers the `gguf` package does not know."""
    return {
        f"blk.{layer}.{norm}.weight": f"model.layers.{layer}.{part}.{norm}.weight"
        for layer in range(layers)
        for part, norm in (("self_attn", "attn_sub_norm"), ("mlp", "ffn_sub_norm"))
    }


def tokenizer(path: Path) -> Any | None:
    """The tokenizer in a GGUF file, or None if it has none that transformers reads."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, NotImplementedError, TypeError):
        return None


def _binary(data: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode Q1_0: blocks of a float16 scale s and 128 bits, the lowest first; 1 is s, 0 is -s."""
    blocks = np.ascontiguousarray(data).reshape(-1, 2 + _Q1_0_SIGNS // 8)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    signs = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32) * 2 - 1
    return (signs * scale).reshape(shape)
