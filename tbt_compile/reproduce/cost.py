"""Size on disk and number of operations, from the packed file and from the products that a model computes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import storage
from tbt_compile.modules import QuantizedAttention, iter_quantized

BITS_PER_OPERATION = 64
"""One 64-bit word operation counts as one floating-point operation (Bi-Real Net, the paper's convention:
0.0625 for products of ternary by ternary, 0.0156 for binary by binary).
"""


def packed_mib(model: PreTrainedModel) -> float:
    """Size in MiB of the file of tensors that `freeze` and `save` write for a prepared model.

    Raises:
        PlanError: the model is not prepared.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = tbt_compile.freeze(model).save(Path(folder) / "packed")
        return (saved / storage.KINDS[storage.FROZEN].tensors).stat().st_size / 2**20


def float_mib(model: PreTrainedModel) -> float:
    """Size in MiB of the parameters as they are stored, shared ones counted once."""
    return sum(parameter.nbytes for parameter in model.parameters()) / 2**20


def relative_flops(
    teacher: PreTrainedModel, student: PreTrainedModel, source_length: int, target_length: int
) -> float:
    """Operations of the student as a share of the teacher's, over all matrix products of one forward pass.

    A product of operands of m and n bits counts m * n / 64 where both are quantized, else 1. The output
    projection counts with its own bits (8 for its input), so that the share is above the paper's, which
    leaves it out.

    Args:
        teacher: in full precision; its products are counted for a text of `source_length` tokens and one of
            `target_length`.
        student: a prepared copy.
    """
    counts = _products(teacher, source_length, target_length)
    bits = _bits(student)
    done = sum(number * _share(bits.get(name)) for name, number in counts.items())
    return done / sum(counts.values())


def _products(model: PreTrainedModel, source_length: int, target_length: int) -> dict[str, int]:
    """Floating-point operations of every linear layer and attention, by the name of its module."""
    counter = FlopCounterMode(display=False)
    tokens = [torch.full((1, length), 3, device=model.device) for length in (source_length, target_length)]
    with torch.no_grad(), counter:
        model.eval()(input_ids=tokens[0], decoder_input_ids=tokens[1], use_cache=False)
    found = counter.get_flop_counts()
    root = type(model).__name__
    totals = {name.removeprefix(f"{root}."): sum(ops.values()) for name, ops in found.items()}
    own: dict[str, int] = {}
    for name, total in totals.items():
        if name in ("Global", root):
            continue
        # A parent's count holds its children's: what is left is its own, such as the products of attention.
        inner = sum(other for child, other in totals.items() if child.rpartition(".")[0] == name)
        own[name] = total - inner
    return {name: number for name, number in own.items() if number}


def _bits(model: PreTrainedModel) -> dict[str, list[tuple[int, int]]]:
    """Bits of the two operands of every product of a module."""
    found: dict[str, list[tuple[int, int]]] = {}
    for name, module in iter_quantized(model):
        if isinstance(module, QuantizedAttention):
            pairs: list[tuple[Any, Any]] = [
                (module.query, module.key),
                (module.probabilities, module.value),
            ]
            name = name.rpartition(".")[0]
        elif hasattr(module, "input_quantizer"):
            pairs = [(module.input_quantizer, module.weight_quantizer)]
        else:
            continue
        found[name] = [(_of(first), _of(second)) for first, second in pairs]
    return found


def _of(quantizer: Any) -> int:
    return int(quantizer.encoding.bits)


def _share(products: list[tuple[int, int]] | None) -> float:
    if products is None:
        return 1.0
    costs = [1.0 if 32 in pair else pair[0] * pair[1] / BITS_PER_OPERATION for pair in products]
    return sum(costs) / len(costs)


def cost(teacher: PreTrainedModel, student: PreTrainedModel, lengths: tuple[int, int]) -> Mapping[str, float]:
    """Size and operations of a row; `lengths` are those of source and target, in tokens."""
    return {"size_mib": packed_mib(student), "relative_flops": relative_flops(teacher, student, *lengths)}
