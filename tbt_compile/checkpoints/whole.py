"""Reading a checkpoint in full precision, as a teacher is: every parameter in float32, ready to train."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from tbt_compile.checkpoints.ctranslate2_whisper import CTranslate2Whisper
from tbt_compile.checkpoints.gguf_file import GgufCheckpoint
from tbt_compile.checkpoints.kinds import is_gguf
from tbt_compile.checkpoints.layers import names_of_parameters
from tbt_compile.checkpoints.source import Checkpoint
from tbt_compile.checkpoints.weightless import weightless
from tbt_compile.errors import FormatError


def load_full_precision(path: str | Path) -> PreTrainedModel:
    """Read the weights of another tool's file as a float32 model to fine-tune and distil.

    Weights that the file holds in fewer bits (Q4_1, Q8_0 and others) are decoded to the real numbers that
    they stand for, and nothing says any more that they were quantized.

    Args:
        path: a GGUF file, or a folder of CTranslate2 with a Whisper in float32 or half precision.

    Returns:
        The model in evaluation mode; parameters have gradients where those of a new model have.

    Raises:
        FormatError: it cannot be read, or does not fit the model that it describes.
        MissingPackageError: a GGUF file, and no gguf package.
    """
    path = Path(path)
    checkpoint: Checkpoint = GgufCheckpoint(path) if is_gguf(path) else CTranslate2Whisper(path)
    model = weightless(checkpoint.config, checkpoint.count, path)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    load_rest(model, checkpoint)
    check_all_used(model, checkpoint)
    if checkpoint.generation is not None:
        model.generation_config = checkpoint.generation
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in trained)
    return model.eval()


def load_rest(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Load what has no quantizer, in float32: norms, biases, and buffers that a checkpoint holds.

    Raises:
        FormatError: a tensor is missing, damaged or of another shape.
    """
    for names in names_of_parameters(model).values():
        place = model.get_parameter(names[0])
        if place.device.type == "meta":
            parameter = nn.Parameter(_fitting(checkpoint, names, place), requires_grad=False)
            for name in names:
                owner, _, attribute = name.rpartition(".")
                model.get_submodule(owner)._parameters[attribute] = parameter
    for name, place in list(model.named_buffers()):
        if name in checkpoint.names:
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = _fitting(checkpoint, [name], place)


def _fitting(checkpoint: Checkpoint, names: list[str], place: Tensor) -> Tensor:
    tensor = checkpoint.tied(names)
    if tensor.shape != place.shape:
        raise FormatError(
            f"{names[0]} in {checkpoint.path} is {list(tensor.shape)}: expected {list(place.shape)}"
        )
    return tensor.float() if tensor.is_floating_point() else tensor


def check_all_used(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint with tensors that no part of the model takes: it would be another model.

    Raises:
        FormatError: there is such a tensor.
    """
    ignored = [*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq"]
    left = [name for name in checkpoint.unread() if not any(re.search(pattern, name) for pattern in ignored)]
    if left:
        raise FormatError(
            f"{checkpoint.path} holds {left[0]} and {len(left) - 1} other tensors for which "
            f"{type(model).__name__} has no place: expected the weights of the model in its config"
        )
