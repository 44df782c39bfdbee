"""Export units of an encoder-decoder model: encoder, first decoder step, later decode steps.

All three are pure functions of tensors with dynamic batch and sequence lengths; the KV caches are passed in
and returned. The first step also projects the encoder output to the keys and values of cross-attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from tbt_compile.adapters.decode_settings import decode_settings
from tbt_compile.adapters.unit_limits import seq2seq_limits, table_rows
from tbt_compile.adapters.units import ExportUnits, capture_unit
from tbt_compile.passes.lowering.context import CacheSlot
from tbt_compile.passes.size_guards import size
from tbt_compile.storage.model_folder import GENERATOR

# Sizes of the example inputs; all differ, or export would give two dimensions one symbol.
_BATCH, _SOURCE, _PREFIX = 2, 9, 3
ROWS, SOURCE, TOKENS = size("rows"), size("source"), size("tokens")
"""Sizes of a call; tokens are those of the decoder's prompt, or in a step all, the new one included."""


class Encoder(nn.Module):
    """(input_ids [B, S], attention_mask [B, S]) -> hidden states [B, S, D]."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class FirstStep(nn.Module):
    """(decoder_input_ids [B, T], hidden states [B, S, D], attention_mask [B, S]) -> logits, both caches."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Tensor, hidden: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the decoder on its prompt.

        Args:
            decoder_input_ids: int64 [B, T].
            hidden: the encoder's output, float32 [B, S, D].
            attention_mask: int64 [B, S], 1 for source tokens and 0 for padding.

        Returns:
            Logits of the last position, float32 [B, 1, V]; keys and values of each self-attention,
            float32 [B, H, T, D]; keys and values of each cross-attention, float32 [B, H, S, D].
        """
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        output = self.model(
            attention_mask=attention_mask,
            encoder_outputs=(hidden,),
            decoder_input_ids=decoder_input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        halves = (cache.self_attention_cache.layers, cache.cross_attention_cache.layers)
        tensors = [tensor for layers in halves for layer in layers for tensor in (layer.keys, layer.values)]
        return (output.logits[:, -1:], *tensors)


class Step(nn.Module):
    """(decoder_input_ids [B, 1], attention_mask [B, S], caches) -> logits [B, 1, V], self-attention cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Tensor, attention_mask: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Run the decoder on one new token per row.

        Args:
            decoder_input_ids: int64 [B, 1].
            attention_mask: int64 [B, S], 1 for source tokens and 0 for padding.
            caches: keys and values of each self-attention, alternating, float32 [B, H, T, D]; then of each
                cross-attention, float32 [B, H, S, D].

        Returns:
            Logits, float32 [B, 1, V], then keys and values of each self-attention with the new token,
            float32 [B, H, T + 1, D].
        """
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        layers = len(pairs) // 2
        cache = EncoderDecoderCache(DynamicCache(pairs[:layers]), DynamicCache(pairs[layers:]))
        for layer in range(layers):
            cache.is_updated[layer] = True
        # Only the shape of the hidden states is read once the cross-attention cache is filled.
        hidden = torch.zeros(*attention_mask.shape, 1).expand(-1, -1, self.model.config.hidden_size)
        output = self.model(
            attention_mask=attention_mask,
            encoder_outputs=(hidden,),
            decoder_input_ids=decoder_input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        grown = cache.self_attention_cache.layers
        return (output.logits, *(tensor for layer in grown for tensor in (layer.keys, layer.values)))


def export_units(model: PreTrainedModel) -> ExportUnits:
    """Export the three units of a frozen encoder-decoder model in eval mode."""
    model.eval()
    ids = torch.randint(0, table_rows(model.get_encoder()), (_BATCH, _SOURCE))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    prefix = torch.randint(0, table_rows(model.get_decoder()), (_BATCH, _PREFIX))
    source, target = {0: ROWS, 1: SOURCE}, {0: ROWS, 1: TOKENS}
    with torch.no_grad():
        hidden = Encoder(model)(ids, mask)
        first = FirstStep(model)(prefix, hidden, mask)
    caches = [tensor.contiguous() for tensor in first[1:]]
    layers = len(caches) // 4
    created = tuple(CacheSlot(key_output=1 + 2 * i, value_output=2 + 2 * i) for i in range(2 * layers))
    names = [f"caches_{i}" for i in range(4 * layers)]
    grown = tuple(CacheSlot(names[2 * i], names[2 * i + 1], 1 + 2 * i, 2 + 2 * i) for i in range(layers))
    read = tuple(CacheSlot(names[2 * i], names[2 * i + 1]) for i in range(layers, 2 * layers))
    past = [{0: ROWS, 2: TOKENS - 1}] * (2 * layers) + [{0: ROWS, 2: SOURCE}] * (2 * layers)
    step_args = (prefix[:, :1].contiguous(), mask, caches)
    contexts = (
        capture_unit("encoder", Encoder(model), (ids, mask), (source, source)),
        capture_unit(
            "first_step", FirstStep(model), (prefix, hidden, mask), (target, source, source), created
        ),
        capture_unit("step", Step(model), step_args, ({0: ROWS}, source, past), grown + read),
    )
    return ExportUnits(GENERATOR, contexts, decode_settings(model, layers, seq2seq_limits(model, *contexts)))
