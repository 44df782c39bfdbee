"""The data of figure 2: histograms of one layer before and after quantization."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tbt_compile.data.batches import Corpus
from tbt_compile.errors import ReproduceError
from tbt_compile.modules import QuantizedAttention, iter_quantized

BINS = 101
SENTENCES = 32
"""Test pairs whose activations are recorded."""

Histogram = dict[str, list[float]]
"""`shares` of the values per bin, and the `edges` of the bins, one more than there are bins."""


def layer_histograms(model: PreTrainedModel, corpus: Corpus) -> dict[str, Any]:
    """Histograms of the decoder's first self-attention, as in figure 2.

    The weight is the value projection. The activation is the softmax output of the same attention on the
    first pairs, without masked positions.

    Raises:
        ReproduceError: the model has no quantized attention in its decoder.
    """
    attention, projection = _decoder_attention(model)
    with torch.no_grad():
        weight = projection.weight_rows
        weight_after = projection.weight_quantizer(weight).value
        before, after = _activations(model, attention.probabilities, corpus)
    return {
        "weight": histogram(weight),
        "quantized weight": histogram(weight_after),
        "activation": histogram(before),
        "quantized activation": histogram(after),
    }


def histogram(values: Tensor) -> Histogram:
    """The histogram of values of any shape, with `BINS` equal bins over their range."""
    shares, edges = np.histogram(values.detach().flatten().float().cpu().numpy(), bins=BINS)
    return {"edges": edges.tolist(), "shares": (shares / max(1, shares.sum())).tolist()}


def _decoder_attention(model: nn.Module) -> tuple[QuantizedAttention, Any]:
    modules = dict(iter_quantized(model))
    for name, module in modules.items():
        parent = name.rpartition(".")[0]
        if isinstance(module, QuantizedAttention) and "decoder" in name:
            for value in ("v_proj", "v"):
                if f"{parent}.{value}" in modules:
                    return module, modules[f"{parent}.{value}"]
    raise ReproduceError(
        f"{type(model).__name__} has no quantized attention with a value projection in its decoder: figure 2 "
        "needs an encoder-decoder of the BART or T5 family"
    )


def _activations(model: PreTrainedModel, quantizer: nn.Module, corpus: Corpus) -> tuple[Tensor, Tensor]:
    dataset = replace(corpus, pairs=corpus.pairs[:SENTENCES]).dataset()
    batch = corpus.collator()([dataset[row] for row in range(len(dataset))])
    seen: list[tuple[Tensor, Tensor]] = []
    hook = quantizer.register_forward_hook(
        lambda _module, inputs, output: seen.append((inputs[0].detach(), output.value.detach()))
    )
    try:
        model.eval()(**batch)
    finally:
        hook.remove()
    before, after = seen[0]
    # Softmax is exactly zero at masked positions, which say nothing about the quantizer.
    written = (before > 0) & (batch["labels"] >= 0)[:, None, :, None]
    return before[written], after.expand_as(before)[written]
