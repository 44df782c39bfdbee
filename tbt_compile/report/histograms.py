"""The distributions of weights in full precision, of their codes, and of the codes of activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.encoding import Encoding
from tbt_compile.errors import CaptureError
from tbt_compile.inspection.entropy import share_entropy
from tbt_compile.inspection.example_calls import Call, described
from tbt_compile.inspection.torch_layers import quantized_layers
from tbt_compile.modules import iter_quantized
from tbt_compile.modules.calls import keeping_weights
from tbt_compile.modules.frozen import ROWS, FrozenWeight
from tbt_compile.quantizers import WeightQuantizer
from tbt_compile.quantizers.ops import widened
from tbt_compile.report.sections import Codes, Histograms, LayerCodes, Values
from tbt_compile.storage.frozen_quantizers import SUFFIX

BINS = 48
_WEIGHT = "weight_quantizer"
Counts = dict[tuple[str, str, Encoding], "Counter[int]"]


@torch.no_grad()
def histograms_of(model: nn.Module, call: Call, inputs: str) -> Histograms:
    """Count the weights and codes of every quantized layer, and the codes of its activations in one call.

    Args:
        model: prepared, with scales, or frozen; in evaluation mode.
        call: positional and keyword arguments.
        inputs: what they are, in words.

    Returns:
        One entry per layer with quantizers; of layers that share a weight, the first one has its counts.

    Raises:
        CaptureError: the call fails.
    """
    labels = quantized_layers(model)
    values: dict[str, Values] = {}
    weights: dict[str, Codes] = {}
    seen: set[int] = set()
    with keeping_weights(model), _counting(model, labels) as counted:
        _run(model, call)
        for name, module in iter_quantized(model):
            quantizer: Any = getattr(module, _WEIGHT, None)
            rows: Tensor | None = getattr(module, "weight_rows", None)
            tensor = quantizer.packed if isinstance(quantizer, FrozenWeight) else rows
            if tensor is None or tensor.data_ptr() in seen:
                continue
            seen.add(tensor.data_ptr())
            if rows is not None:
                values[labels[name]] = _values(rows)
            if quantizer.encoding.quantized:
                counts = _weight_counts(quantizer, rows)
                weights[labels[name]] = _codes("weight", quantizer.encoding, counts)
    activations: dict[str, list[Codes]] = {}
    for (label, operand, encoding), counts in counted.items():
        activations.setdefault(label, []).append(_codes(operand, encoding, counts))
    layers = [
        LayerCodes(label, values.get(label), weights.get(label), tuple(activations.get(label, ())))
        for label in dict.fromkeys(labels.values())
    ]
    notes = (
        ()
        if values
        else (
            "Weights in full precision have no histograms here: a frozen model keeps only their codes. "
            "Report the trained folder for them.",
        )
    )
    shown = tuple(layer for layer in layers if layer.values or layer.weight or layer.activations)
    return Histograms(shown, f"{inputs}: {described(model, call)}", notes)


def _run(model: nn.Module, call: Call) -> None:
    try:
        model(*call[0], **call[1])
    except Exception as error:  # PyTorch raises many kinds
        raise CaptureError(
            f"{type(model).__name__} cannot be called with {described(model, call)} "
            f"({type(error).__name__}: {error}): give example inputs that its forward takes"
        ) from error


@contextmanager
def _counting(model: nn.Module, labels: dict[str, str]) -> Iterator[Counts]:
    """Count the codes of every activation quantizer in the block, by layer, operand and encoding."""
    counted: Counts = {}

    def hook(key: tuple[str, str, Encoding]) -> Any:
        def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
            counted.setdefault(key, Counter()).update(_counts(output.codes))

        return count

    handles = [
        child.register_forward_hook(hook((labels[name], operand.removesuffix(SUFFIX), child.encoding)))
        for name, module in iter_quantized(model)
        for operand, child in module.named_children()
        if operand != _WEIGHT and getattr(child, "encoding", Encoding.FLOAT).quantized
    ]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def _weight_counts(quantizer: Any, rows: Tensor | None) -> Counter[int]:
    """Count the codes of a weight, in blocks of rows where a quantizer looks at each row alone."""
    counts: Counter[int] = Counter()
    if isinstance(quantizer, FrozenWeight):
        for packed in quantizer.packed.split(ROWS):
            codes = torch.ops.tbt.unpack(packed, quantizer.encoding.value, quantizer.columns)
            counts.update(_counts(codes))
        return counts
    assert rows is not None, "a weight that is not packed is in full precision"
    for block in rows.split(ROWS) if type(quantizer) is WeightQuantizer else (rows,):
        counts.update(_counts(quantizer(widened(block)).codes))
    return counts


def _counts(codes: Tensor) -> dict[int, int]:
    found, counts = torch.unique(codes, return_counts=True)
    return dict(zip(found.int().tolist(), counts.tolist(), strict=True))


def _codes(operand: str, encoding: Encoding, counts: Counter[int]) -> Codes:
    total = max(1, counts.total())
    levels = tuple(sorted(counts))
    shares = tuple(counts[level] / total for level in levels)
    return Codes(operand, encoding.value, levels, shares, share_entropy(shares))


def _values(weight: Tensor) -> Values:
    """The histogram of a weight over its whole range."""
    wide = widened(weight.detach()).float()
    low, high = float(wide.min()), float(wide.max())
    counts = torch.histc(wide, BINS, low, high).int().tolist()
    return Values(low, high, tuple(counts))
