"""Export units of a decoder-only model: prefill of the prompt, then decode steps of one token, or of several.

As for encoder-decoder models, units are pure functions of tensors with dynamic batch and lengths; the KV
cache is passed in and returned. Prompts are padded on the left, so positions are an argument too.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from tbt_compile.adapters.decode_settings import decode_settings
from tbt_compile.adapters.unit_limits import bounds_of, decoder_limits, table_rows
from tbt_compile.adapters.units import ExportUnits, capture_unit, cheap_layers, stepping
from tbt_compile.errors import LoweringError
from tbt_compile.ops.exact import exact
from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext
from tbt_compile.passes.size_guards import size
from tbt_compile.storage.model_folder import GENERATOR

log = logging.getLogger(__name__)
_BATCH, _PROMPT = 2, 9
ROWS, TOKENS = size("rows"), size("tokens")
"""Sizes of a call; tokens are those of the prompt, or in a step all, the new one included."""
PAST, NEW = size("past"), size("new")
"""Sizes of a call that appends several tokens to a cache."""
_NEW = 4


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
    """Decode step: (input_ids [B, Q], attention_mask [B, T + Q], position_ids [B, Q], caches) -> the same."""

    is_first = False

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Run the model on new tokens of every row: one in a unit "step", several in a unit "extend".

        Args:
            input_ids: int64 [B, Q].
            attention_mask: int64 [B, T + Q], the new tokens included.
            position_ids: int64 [B, Q].
            caches: keys and values of each layer, alternating, float32 [B, H, T, D].

        Returns:
            Logits of the last position, float32 [B, 1, V], then the caches with the new tokens, float32
            [B, H, T + Q, D].
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
    contexts: tuple[LoweringContext, ...] = (
        capture_unit("first_step", FirstStep(model), (ids, mask, positions), (row, row, row), created),
        capture_unit("step", Step(model), step_args, (column, row, column, past), grown),
    )
    settings = decode_settings(model, layers, decoder_limits(model, *contexts))
    several = _several_tokens(model, grown)
    if several is not None:
        settings["limits"]["bounds"] |= bounds_of([several])
        contexts = (*contexts, several)
    return ExportUnits(GENERATOR, contexts, settings)


def _several_tokens(model: PreTrainedModel, grown: tuple[CacheSlot, ...]) -> LoweringContext | None:
    """The unit that appends several tokens to a cache at once, which a step does one by one.

    None if the model does not compute the same that way: its forward may take more than one token for a
    prompt, whatever is in the cache.
    """
    name = type(model).__name__
    ids = torch.randint(0, table_rows(model), (_BATCH, _PROMPT))
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    positions = ((mask.cumsum(1) - 1) * mask).contiguous()
    past = _PROMPT - _NEW
    try:
        with torch.no_grad(), cheap_layers(), exact():
            whole = FirstStep(model)(ids, mask, positions)
            start = FirstStep(model)(ids[:, :past], mask[:, :past], positions[:, :past])
            caches = [tensor.contiguous() for tensor in start[1:]]
            args = (ids[:, past:].contiguous(), mask, positions[:, past:].contiguous(), caches)
            parts = Step(model)(*args)
    except Exception as error:  # whatever a forward raises for a call that it does not know
        log.info("%s cannot read a prompt in parts (%s): it is read whole", name, error)
        return None
    seen = mask[:, None, :, None] == 1  # padding may see itself, or all that is there
    caches_agree = all(
        torch.equal(one.where(seen, 0), other.where(seen, 0))
        for one, other in zip(whole[1:], parts[1:], strict=True)
    )
    if not caches_agree or not torch.equal(whole[0], parts[0]):
        log.info("%s computes something else where a prompt is read in parts: it is read whole", name)
        return None
    try:
        new, columns = {0: ROWS, 1: NEW}, {0: ROWS, 1: PAST + NEW}
        sizes = (new, columns, new, [{0: ROWS, 2: PAST}] * len(caches))
        return capture_unit("extend", Step(model), args, sizes, grown)
    except LoweringError as error:
        log.info("%s cannot read a prompt in parts (%s): it is read whole", name, error)
        return None


def _without_cache(model: PreTrainedModel) -> LoweringError:
    return LoweringError(
        f"{type(model).__name__} keeps no cache of keys and values, so that every token would cost as much "
        "as its whole prompt: run the frozen model in eager mode"
    )
