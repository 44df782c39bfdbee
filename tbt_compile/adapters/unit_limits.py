"""Limits on token ids and lengths, read off the tables that the exported units index."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from tbt_compile.passes.index_bounds import index_bounds
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import shape_of

_MASK = {"attention_mask": 1}


def seq2seq_limits(
    model: PreTrainedModel, encoder: LoweringContext, first_step: LoweringContext, step: LoweringContext
) -> dict[str, Any]:
    """Return the limits of an encoder-decoder model, JSON-ready; padding counts on either side.

    Args:
        model: the exported model; its config may set a limit that no table shows.
        encoder: the unit that takes `input_ids`.
        first_step: the unit that takes the prompt of the decoder.
        step: the unit that takes one decoder token and the caches.

    Returns:
        "limits" (see `Limits`), "vocabulary" of the decoder, and "max_positions" of the source.
    """
    of_config = _of_config(model)
    reads, starts, goes_on = (index_bounds(unit.program, _MASK) for unit in (encoder, first_step, step))
    source = {
        "vocabulary": reads.below.get("input_ids", _vocabulary(model)),
        "length": _least(
            of_config,
            reads.longest(encoder.program, "input_ids", 1),
            starts.longest(first_step.program, "hidden", 1),
            goes_on.longest(step.program, "attention_mask", 1),
        ),
    }
    cached = goes_on.longest(step.program, "caches_0", 2)
    decoder = {
        "vocabulary": _least(starts.below.get("decoder_input_ids"), goes_on.below.get("decoder_input_ids"))
        or _vocabulary(model),
        "length": _least(
            of_config,
            starts.longest(first_step.program, "decoder_input_ids", 1),
            None if cached is None else cached + 1,
        ),
    }
    (hidden,) = (node for node in first_step.graph.find_nodes(op="placeholder") if node.name == "hidden")
    return _described(source, decoder, int(shape_of(hidden)[2]))


def decoder_limits(
    model: PreTrainedModel, first_step: LoweringContext, step: LoweringContext
) -> dict[str, Any]:
    """Return the limits of a decoder-only model, as for `seq2seq_limits`.

    Positions that are an input count attended tokens. Others depend on the length, and count padding.

    Args:
        model: the exported model.
        first_step: the unit that takes the prompt.
        step: the unit that takes one token and the caches.

    Returns:
        As for `seq2seq_limits`.
    """
    starts, goes_on = (index_bounds(unit.program, _MASK) for unit in (first_step, step))
    cached = goes_on.longest(step.program, "caches_0", 2)
    limits = {
        "vocabulary": _least(starts.below.get("input_ids"), goes_on.below.get("input_ids"))
        or _vocabulary(model),
        "length": _least(
            starts.longest(first_step.program, "input_ids", 1), None if cached is None else cached + 1
        ),
        "positions": _least(
            _of_config(model), starts.below.get("position_ids"), goes_on.below.get("position_ids")
        ),
    }
    return _described(limits, limits, None)


def table_rows(model: Any) -> int:
    """Return the number of tokens that a model, or the encoder or decoder of one, has embeddings for."""
    return int(model.get_input_embeddings().num_embeddings)


def _described(source: dict[str, Any], decoder: dict[str, Any], width: int | None) -> dict[str, Any]:
    return {
        "vocabulary": decoder["vocabulary"],
        "max_positions": _least(source["length"], source.get("positions")),
        "limits": {"source": source, "decoder": decoder, "width": width},
    }


def _of_config(model: PreTrainedModel) -> int | None:
    return positions_of(model.config)


def positions_of(config: Any) -> int | None:
    """Return the largest number of positions at which one graph computes what the model computes, if any.

    With LongRoPE (Phi-3) other frequencies apply to all positions beyond the original length; transformers
    drops the cache there and reads everything again, which a compiled step cannot do.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    layers = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    original = [
        part.get(
            "original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None)
        )
        for part in layers
        if part.get("rope_type") == "longrope"
    ]
    limit = getattr(config, "max_position_embeddings", None)
    return _least(None if limit is None else int(limit), *original)


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.vocab_size)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
