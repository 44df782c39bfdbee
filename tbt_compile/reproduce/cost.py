"""Operation counts, from the matrix products of a forward pass."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.modules import QuantizedAttention, iter_quantized
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.quantizers.split import SplitWeightQuantizer

BITS_PER_OPERATION = 64
"""One 64-bit word operation counts as one floating-point operation, as in Bi-Real Net and the paper: a
ternary x ternary product counts 0.0625, a binary x binary product 0.0156.
"""


class Product(NamedTuple):
    """A matrix product of a forward pass: its multiplications and the bits of both operands."""

    multiplications: int
    bits: tuple[int, int]

    @property
    def operations(self) -> float:
        """The equivalent number of full-precision multiplications."""
        first, second = self.bits
        share = 1.0 if 32 in self.bits else first * second / BITS_PER_OPERATION
        return self.multiplications * share


def relative_flops(
    teacher: PreTrainedModel, student: PreTrainedModel, source_length: int, target_length: int
) -> float:
    """Operations of the student as a share of the teacher's, over all matrix products of a forward pass.

    A product of operands of m and n bits counts m * n / 64 if both are quantized, else 1. The share is above
    the paper's, which leaves out the output projection; here it counts with its bits (8 for its input).

    Args:
        teacher: in full precision.
        student: a prepared model.
        source_length, target_length: tokens of source and target in the pass.
    """
    whole = products(tbt_compile.prepare(copy.deepcopy(teacher)), source_length, target_length)
    done = products(student, source_length, target_length)
    return sum(product.operations for product in done) / sum(product.multiplications for product in whole)


def products(model: PreTrainedModel, source_length: int, target_length: int) -> list[Product]:
    """Every matrix product of a forward pass, recorded with hooks.

    Args:
        model: a prepared encoder-decoder.
        source_length, target_length: tokens of source and target in the pass.
    """
    found: list[Product] = []
    hooks = [
        module.register_forward_hook(partial(_note_linear, found))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    for _, core in iter_quantized(model):
        if isinstance(core, QuantizedAttention):
            hooks += _hook_attention(core, found)
    tokens = [torch.full((1, length), 3, device=model.device) for length in (source_length, target_length)]
    try:
        with torch.no_grad():
            model.eval()(input_ids=tokens[0], decoder_input_ids=tokens[1], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _note_linear(found: list[Product], module: Any, _inputs: Any, output: Tensor) -> None:
    bits, number = (32, 32), output.numel() * module.in_features
    quantizer = getattr(module, "weight_quantizer", None)
    if quantizer is not None:
        bits = (module.input_quantizer.encoding.bits, quantizer.encoding.bits)
    if isinstance(quantizer, BlockPruner):
        number = round(number * float(quantizer(module.weight).codes.count_nonzero() / module.weight.numel()))
    # A split weight is two binary weights.
    found += [Product(number, bits)] * (2 if isinstance(quantizer, SplitWeightQuantizer) else 1)


def _hook_attention(core: QuantizedAttention, found: list[Product]) -> list[Any]:
    """Record Q K^T and P V, each B x H x Q x K x D multiplications: p is [B, H, Q, K], q is [B, H, Q, D]."""
    widths: list[int] = []

    def note(_module: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
        number = inputs[0].numel() * widths.pop()
        for pair in ((core.query, core.key), (core.probabilities, core.value)):
            found.append(Product(number, (pair[0].encoding.bits, pair[1].encoding.bits)))

    return [
        core.query.register_forward_hook(lambda _module, inputs, _output: widths.append(inputs[0].shape[-1])),
        core.probabilities.register_forward_hook(note),
    ]
