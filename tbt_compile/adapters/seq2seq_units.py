"""Export units of an encoder-decoder model: encoder, first decoder step, later decode steps.

All three are pure functions of tensors with dynamic batch and sequence lengths; the KV caches are passed in
and returned. The first step also projects the encoder output to the keys and values of cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from tbt_compile.adapters.blocks import capture_encoder
from tbt_compile.adapters.decode_settings import decode_settings
from tbt_compile.adapters.sources import ROWS, encoder_name, source_of, states_of
from tbt_compile.adapters.unit_limits import seq2seq_limits, table_rows
from tbt_compile.adapters.units import ExportUnits, capture_unit, stepping
from tbt_compile.passes.lowering.context import CacheSlot
from tbt_compile.passes.size_guards import size
from tbt_compile.storage.model_folder import GENERATOR

_PREFIX = 3
"""Tokens of the decoder's prompt in the example; sizes differ, or export would give two one symbol."""
TOKENS = size("tokens")
"""Those of the decoder's prompt, or in a step all, the new one included."""


class Encoder(nn.Module):
    """(input_ids [B, S], attention_mask [B, S]) -> hidden states [B, S, D]; takes blocks of tokens too."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids, mask = input_ids.flatten(1), attention_mask.flatten(1)
        return self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state


class FeatureEncoder(nn.Module):
    """(features [B, ...]) -> hidden states [B, S, D]; the model calls its features `name`."""

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = encoder_name(model, name)

    def forward(self, features: Tensor) -> Tensor:
        return states_of(self.model.get_encoder()(**{self.name: features}))


@dataclass
class EncoderOutput(BaseModelOutput):
    """What the encoder returned, with the mask that decoders of audio read there: features have none."""

    attention_mask: Tensor | None = None
    pooler_output: Tensor | None = None


class _Decoder(nn.Module):
    """A call of the decoder with a KV cache; `masked` says whether the model takes the mask of the source."""

    def __init__(self, model: PreTrainedModel, masked: bool = True) -> None:
        super().__init__()
        self.model = model
        self.masked = masked

    def run(self, ids: Tensor, hidden: Tensor, mask: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """Return the logits of the tokens `ids`, [B, T, V], and grow the cache."""
        given = {"attention_mask": mask} if self.masked else {}
        output = self.model(
            **given,
            encoder_outputs=EncoderOutput(last_hidden_state=hidden, pooler_output=hidden),
            decoder_input_ids=ids,
            past_key_values=cache,
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits


class FirstStep(_Decoder):
    """(decoder_input_ids [B, T], hidden states [B, S, D], attention_mask [B, S]) -> logits, both caches."""

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
        logits = self.run(decoder_input_ids, hidden, attention_mask, cache)
        halves = (cache.self_attention_cache.layers, cache.cross_attention_cache.layers)
        tensors = [tensor for layers in halves for layer in layers for tensor in (layer.keys, layer.values)]
        return (logits[:, -1:], *tensors)


class Step(_Decoder):
    """(decoder_input_ids [B, 1], attention_mask [B, S], caches) -> logits [B, 1, V], self-attention cache."""

    def __init__(self, model: PreTrainedModel, masked: bool = True, width: int | None = None) -> None:
        super().__init__(model, masked)
        self.width = model.config.hidden_size if width is None else width

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
        hidden = torch.zeros(*attention_mask.shape, 1).expand(-1, -1, self.width)
        logits = self.run(decoder_input_ids, hidden, attention_mask, cache)
        grown = cache.self_attention_cache.layers
        return (logits, *(tensor for layer in grown for tensor in (layer.keys, layer.values)))


def export_units(model: PreTrainedModel) -> ExportUnits:
    """Export the three units of a frozen encoder-decoder model in eval mode.

    Raises:
        LoweringError: the model cannot be captured, or reads something else than ids or features.
    """
    model.eval()
    source = source_of(model)
    encoder: nn.Module = Encoder(model) if source.takes_text else FeatureEncoder(model, source.name)
    encoding, source = capture_encoder(encoder, source)
    mask, inputs = source.mask, tuple(source.inputs.values())
    prefix = torch.randint(0, table_rows(model.get_decoder()), (len(mask), _PREFIX))
    first_step = FirstStep(model, source.masked)
    with torch.no_grad(), stepping(model):
        hidden = encoder(*inputs)
        first = first_step(prefix, hidden, mask)
    step = Step(model, source.masked, hidden.shape[-1])
    caches = [tensor.contiguous() for tensor in first[1:]]
    layers = len(caches) // 4
    created = tuple(CacheSlot(key_output=1 + 2 * i, value_output=2 + 2 * i) for i in range(2 * layers))
    names = [f"caches_{i}" for i in range(4 * layers)]
    grown = tuple(CacheSlot(names[2 * i], names[2 * i + 1], 1 + 2 * i, 2 + 2 * i) for i in range(layers))
    read = tuple(CacheSlot(names[2 * i], names[2 * i + 1]) for i in range(layers, 2 * layers))
    crossed = {dim + (dim == 1): extent for dim, extent in source.states.items()}  # [B, H, S, D]
    past = [{0: ROWS, 2: TOKENS - 1}] * (2 * layers) + [crossed] * (2 * layers)
    first_args, step_args = (prefix, hidden, mask), (prefix[:, :1].contiguous(), mask, caches)
    with torch.no_grad(), stepping(model):
        step(*step_args)  # a graph leaves out what transformers checks
    first_shapes = ({0: ROWS, 1: TOKENS}, source.states, source.states)
    contexts = (
        encoding,
        capture_unit("first_step", first_step, first_args, first_shapes, created),
        capture_unit("step", step, step_args, ({0: ROWS}, source.states, past), grown + read),
    )
    fixed = None if source.takes_text else mask.shape[1]
    settings = decode_settings(model, layers, seq2seq_limits(model, *contexts, fixed, source.block))
    if not source.takes_text:
        features = {"name": source.name, "shape": list(inputs[0].shape[1:]), "states": mask.shape[1]}
        settings["features"] = features
    return ExportUnits(GENERATOR, contexts, settings)
