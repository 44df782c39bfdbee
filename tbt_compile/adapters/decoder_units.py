"""Export units of a decoder-only model: prefill of the prompt, then decode steps of one token.

As for encoder-decoder models, units are pure functions of tensors with dynamic batch and lengths; the KV
cache is passed in and returned. Prompts are padded on the left, so positions are an argument too.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from tbt_compile.adapters.decode_settings import decode_settings
from tbt_compile.adapters.unit_limits import decoder_limits, table_rows
from tbt_compile.adapters.units import ExportUnits, capture_unit, stepping
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering.context import CacheSlot
from tbt_compile.passes.size_guards import size
from tbt_compile.storage.model_folder import GENERATOR

_BATCH, _PROMPT = 2, 9
ROWS, TOKENS = size("rows"), size("tokens")
"""Sizes of a call; tokens are those of the prompt, or in a step all, the new one included."""


class _Unit(nn.Module):
    """A call of the model with a KV cache, as `generate` makes it."""

    is_first: bool

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: Any = model
        self.accepted = frozenset(inspect.signature(model.forward).parameters)

    def run(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> tuple[Tensor, ...]:
        """Return the logits of the last position `[B, 1, V]`, then keys and values of each layer."""
        # Models without position embeddings do not accept position_ids.
        optional: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        given = {name: value for name, value in optional.items() if name in self.accepted}
        # The model has the last word on its inputs: some count positions from 1, or those of padding too.
        inputs = self.model.prepare_inputs_for_generation(
            ids,
            past_key_values=cache,
            attention_mask=mask,
            use_cache=True,
            is_first_iteration=self.is_first,
            **given,
        )
        if inputs.get("past_key_values") is None:
            raise _without_cache(self.model)
        output = self.model(**inputs, return_dict=True)
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (output.logits[:, -1:], *tensors)


class FirstStep(_Unit):
    """Prefill: (input_ids, attention_mask, position_ids, each [B, T]) -> logits [B, 1, V] and the caches."""

    is_first = True

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        """Run the model on whole prompts.

        Args:
            input_ids: int64 [B, T], padded on the left.
            attention_mask: int64 [B, T], 1 for tokens and 0 for padding.
            position_ids: int64 [B, T], counted over attended tokens.

        Returns:
            Logits of the last position, float32 [B, 1, V], then keys and values of each layer,
            float32 [B, H, T, D].
        """
        return self.run(input_ids, attention_mask, position_ids, DynamicCache())


class Step(_Unit):
    """Decode step: (input_ids [B, 1], attention_mask [B, T + 1], position_ids [B, 1], caches) -> the same."""

    is_first = False

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Run the model on one new token per row.

        Args:
            input_ids: int64 [B, 1].
            attention_mask: int64 [B, T + 1], the new token included.
            position_ids: int64 [B, 1].
            caches: keys and values of each layer, alternating, float32 [B, H, T, D].

        Returns:
            Logits, float32 [B, 1, V], then the caches with the new token, float32 [B, H, T + 1, D].
        """
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        return self.run(input_ids, attention_mask, position_ids, DynamicCache(pairs))


def export_units(model: PreTrainedModel) -> ExportUnits:
    """Export both units of a frozen decoder-only model in eval mode.

    Raises:
        LoweringError: the model keeps state other than keys and values between steps.
    """
    model.eval()
    ids = torch.randint(0, table_rows(model), (_BATCH, _PROMPT))
    mask = torch.ones_like(ids)
    positions = torch.arange(_PROMPT).expand(_BATCH, -1).contiguous()
    with torch.no_grad(), stepping(model):
        caches = [tensor.contiguous() for tensor in FirstStep(model)(ids, mask, positions)[1:]]
    layers = len(caches) // 2
    if not layers:
        raise _without_cache(model)
    created = tuple(CacheSlot(key_output=1 + 2 * i, value_output=2 + 2 * i) for i in range(layers))
    grown = tuple(
        CacheSlot(f"caches_{2 * i}", f"caches_{2 * i + 1}", 1 + 2 * i, 2 + 2 * i) for i in range(layers)
    )
    column, row = {0: ROWS}, {0: ROWS, 1: TOKENS}
    past = [{0: ROWS, 2: TOKENS - 1}] * len(caches)
    longer = torch.ones(_BATCH, _PROMPT + 1, dtype=torch.int64)
    step_args = (ids[:, :1].contiguous(), longer, positions[:, :1].contiguous(), caches)
    contexts = (
        capture_unit("first_step", FirstStep(model), (ids, mask, positions), (row, row, row), created),
        capture_unit("step", Step(model), step_args, (column, row, column, past), grown),
    )
    return ExportUnits(GENERATOR, contexts, decode_settings(model, layers, decoder_limits(model, *contexts)))


def _without_cache(model: PreTrainedModel) -> LoweringError:
    return LoweringError(
        f"{type(model).__name__} keeps no cache of keys and values, so that every token would cost as much "
        "as its whole prompt: run the frozen model in eager mode"
    )
