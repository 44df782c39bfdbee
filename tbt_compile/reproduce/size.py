"""Model size on disk: of the packed file, or counted for weights that have no packed form."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.encoding import Encoding
from tbt_compile.modules import iter_quantized
from tbt_compile.quantizers.pruned import BlockPruner, blocks_of
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.storage import model_folder
from tbt_compile.training.methods.blockpruning import packed_bytes

MIB = 2**20


def size_mib(model: PreTrainedModel) -> float:
    """Size in MiB of a prepared model's tensors: of the file that `save` writes, else `counted_mib`."""
    unpacked = (BlockPruner, SplitWeightQuantizer)
    if any(isinstance(module, unpacked) for module in model.modules()):
        return counted_mib(model)
    with tempfile.TemporaryDirectory() as folder:
        saved = tbt_compile.freeze(model).save(Path(folder) / "packed")
        return (saved / model_folder.KINDS[model_folder.FROZEN].tensors).stat().st_size / MIB


def float_mib(model: PreTrainedModel) -> float:
    """Size in MiB of the parameters in their dtype; shared ones count once."""
    return sum(parameter.nbytes for parameter in model.parameters()) / MIB


@torch.no_grad()
def counted_mib(model: nn.Module) -> float:
    """Size in MiB of the weights' codes and scales, plus everything else in fp32.

    A pruned weight counts its remaining blocks in fp32 and one bit per block. A split weight counts as two
    binary weights.
    """
    weights: dict[int, float] = {}
    inner: set[int] = set()
    for _, module in iter_quantized(model):
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is None:
            continue
        inner |= {id(parameter) for parameter in quantizer.parameters()}
        if quantizer.encoding.quantized or isinstance(quantizer, BlockPruner):
            weights.setdefault(id(module.weight), _weight_bytes(module, quantizer))
    others = [
        parameter.nbytes
        for parameter in model.parameters()
        if id(parameter) not in weights and id(parameter) not in inner
    ]
    return (sum(weights.values()) + sum(others)) / MIB


def _weight_bytes(module: Any, quantizer: Any) -> float:
    weight = module.weight_rows
    if isinstance(quantizer, SplitWeightQuantizer):
        return 2 * packed_bytes(weight, Encoding.BINARY)
    if not isinstance(quantizer, BlockPruner):
        return packed_bytes(weight, quantizer.encoding)
    rows, columns = weight.shape
    high, wide = blocks_of(rows, columns, quantizer.block)
    return 4 * int(quantizer(weight).codes.count_nonzero()) + high * wide / 8
