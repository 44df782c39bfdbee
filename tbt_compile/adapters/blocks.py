"""Encoders that attend within blocks of tokens: their sources are padded to whole blocks.

Such an encoder rounds the length of its source up. Bounds on the length cannot tell then for which calls a
graph holds. In a source of whole blocks every length inside is a multiple of their number, and one graph
holds for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.adapters.sources import SOURCE, Source, text_source
from tbt_compile.adapters.units import capture_unit
from tbt_compile.errors import LoweringError
from tbt_compile.passes.capture_errors import relations_of
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.size_guards import InexpressibleError
from tbt_compile.passes.size_relations import modulus

_DRAWS = 5
"""Sources that are tried: where the last bit of a sum differs, codes of one of them may."""


def capture_encoder(encoder: nn.Module, source: Source) -> tuple[LoweringContext, Source]:
    """Export an encoder for sources of any length or, if no bounds tell which, for those of whole blocks.

    Returns:
        The unit, and the source that it takes.

    Raises:
        LoweringError: the model cannot be captured, or padding changes what it computes.
    """
    try:
        return _captured(encoder, source), source
    except LoweringError as error:
        relations = (
            error.relations if isinstance(error, InexpressibleError) else relations_of(error.__cause__)
        )
        block = modulus(relations)
        if block == 1 or not source.takes_text:
            raise
        model: Any = encoder.model
        blocks = text_source(model, block)
        try:
            unit = _captured(encoder, blocks)
        except LoweringError:
            raise error from None
    if not any(_ignores_padding(encoder, text_source(model, block)) for _ in range(_DRAWS)):
        raise LoweringError(
            f"the encoder of {type(model).__name__} attends within blocks of {block} tokens, and padding a "
            "source to whole blocks changes what it computes before the padding: expected attention that "
            "follows attention_mask; run the frozen model in eager mode"
        )
    bounds = tuple(bound.scaled(str(SOURCE), block) for bound in unit.bounds if bound.size != "rows")
    rows = tuple(bound for bound in unit.bounds if bound.size == "rows")
    return replace(unit, bounds=rows + bounds), blocks


def _captured(encoder: nn.Module, source: Source) -> LoweringContext:
    inputs = tuple(source.inputs.values())
    return capture_unit("encoder", encoder, inputs, (source.shape,) * len(inputs))


def _ignores_padding(encoder: nn.Module, source: Source) -> bool:
    """Whether an encoder computes the same for a source that is padded to two blocks and one that is not."""
    ids, mask = (value.flatten(1) for value in source.inputs.values())
    length, whole = source.block + 1, 2 * source.block
    alone = _states(encoder, ids[:, :length], torch.ones_like(mask[:, :length]))
    inside = (torch.arange(whole) < length).long().expand(len(ids), -1)
    padded = _states(encoder, ids[:, :whole] * inside, inside)[:, :length]
    return torch.allclose(padded, alone, rtol=1e-3, atol=1e-3)


def _states(encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = encoder(ids, mask)
    return states
