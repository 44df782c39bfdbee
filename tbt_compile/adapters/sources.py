"""What the encoder of an encoder-decoder model reads: token ids with a mask, or features of images or audio.

Features are one float tensor of a fixed size per row: an image, or the log-mel spectrogram of some audio.
Their encoder takes no mask, and the decoder attends to every position of its output.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tbt_compile.adapters.call_record import recorded
from tbt_compile.adapters.unit_limits import table_rows
from tbt_compile.errors import LoweringError
from tbt_compile.passes.size_guards import Shape, size

ROWS, SOURCE, BLOCKS = size("rows"), size("source"), size("blocks")
_BATCH, _SOURCE, _BLOCKS = 2, 9, 3
_IDS = "input_ids"


@dataclass(frozen=True)
class Source:
    """The inputs of an encoder.

    Attributes:
        inputs: example inputs by name.
        shape: their dynamic dimensions.
        states: the dynamic dimensions of the encoder's output, [B, S, D].
        mask: which positions of the output the decoder attends to, int64 [B, S].
        masked: whether the decoder takes that mask.
        block: if not 1, the length is a multiple of this, and the inputs are [B, S / block, block].
    """

    inputs: dict[str, Tensor]
    shape: Shape
    states: Shape
    mask: Tensor
    masked: bool
    block: int = 1

    @property
    def name(self) -> str:
        """The name of the input that is not a mask."""
        return next(iter(self.inputs))

    @property
    def takes_text(self) -> bool:
        """Whether the source is token ids."""
        return self.name == _IDS


def source_of(model: PreTrainedModel) -> Source:
    """Return the source of an encoder-decoder model in eval mode.

    Raises:
        LoweringError: the model was prepared with inputs that are neither ids nor one tensor of features.
    """
    name = feature_name(model)
    if name is None:
        return text_source(model)
    features = torch.rand(_BATCH, *feature_shape(model, name))
    with torch.no_grad():
        states = states_of(model.get_encoder()(**{encoder_name(model, name): features}))
    mask = torch.ones(states.shape[:2], dtype=torch.int64)
    return Source({name: features}, {0: ROWS}, {0: ROWS}, mask, masked=False)


def states_of(output: Any) -> Tensor:
    """What the decoder attends to, [B, S, D], of the output of an encoder of features.

    Encoders that end in a projection for the decoder call its result their pooled output (PP-FormulaNet).
    """
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    states: Tensor = output.last_hidden_state
    return pooled if pooled is not None and pooled.dim() == 3 else states


def text_source(model: PreTrainedModel, block: int = 1) -> Source:
    """A source of token ids with a mask; if `block` is not 1, of blocks of so many tokens."""
    width = _SOURCE if block == 1 else _BLOCKS * block
    ids = torch.randint(0, table_rows(model.get_encoder()), (_BATCH, width))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    inputs, states = {_IDS: ids, "attention_mask": mask}, {0: ROWS, 1: SOURCE}
    if block == 1:
        return Source(inputs, states, states, mask, masked=True)
    blocks = {name: value.unflatten(1, (_BLOCKS, block)) for name, value in inputs.items()}
    return Source(blocks, {0: ROWS, 1: BLOCKS}, states, mask, masked=True, block=block)


def feature_name(model: PreTrainedModel) -> str | None:
    """The name under which the encoder takes features, None if it takes token ids."""
    accepted = inspect.signature(model.get_encoder().forward).parameters
    return None if _IDS in accepted else str(model.main_input_name)


def encoder_name(model: PreTrainedModel, name: str) -> str:
    """What the encoder calls the features that the model calls `name`; composed models may have their own."""
    encoder: Any = model.get_encoder()
    accepted = inspect.signature(encoder.forward).parameters
    return name if name in accepted else str(encoder.main_input_name)


def feature_shape(model: PreTrainedModel, name: str) -> list[int]:
    """The shape of the features of one row: those that the model was prepared with, or of its config.

    Raises:
        LoweringError: neither tells.
    """
    call = recorded(model) or []
    sizes: list[int] | None = next((each["shape"][1:] for each in call if each["name"] == name), None)
    if sizes is None:
        sizes = shape_of_config(model, name)
    if sizes is None:
        raise LoweringError(
            f"{type(model).__name__} was prepared without {name!r}, whose shape its config does not tell: "
            f"prepare it with example_inputs={{{name!r}: ..., 'decoder_input_ids': ...}}"
        )
    return sizes


def shape_of_config(model: PreTrainedModel, name: str) -> list[int] | None:
    """The shape of the features of one row as far as the config of the encoder tells it."""
    config: Any = model.get_encoder().config
    if name == "pixel_values" and getattr(config, "image_size", None):
        height, width = _pair(config.image_size)
        return [int(getattr(config, "num_channels", 3)), height, width]
    patches, values = (getattr(config, field, None) for field in ("seq_len", "patch_embed_hidden_size"))
    if name == "flattened_patches" and patches and values:
        return [int(patches), 2 + int(values)]  # after the row and the column of a patch
    mels, positions = (getattr(config, field, None) for field in ("num_mel_bins", "max_source_positions"))
    if name == "input_features" and mels and positions:
        strides = [module.stride[0] for module in _convolutions(model)]
        return [int(mels), int(positions) * int(torch.tensor(strides).prod())]
    return None


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return int(height), int(width)


def _convolutions(model: PreTrainedModel) -> list[torch.nn.Conv1d]:
    return [module for module in model.get_encoder().children() if isinstance(module, torch.nn.Conv1d)]
