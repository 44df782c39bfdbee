"""Limits on token ids and lengths, read off the tables that the exported units index."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from tbt_compile.adapters.checked_lookups import bounds_of_step
from tbt_compile.adapters.rope import positions_of
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import shape_of


def seq2seq_limits(
    model: PreTrainedModel,
    encoder: LoweringContext,
    first_step: LoweringContext,
    step: LoweringContext,
    states: int | None = None,
    block: int = 1,
) -> dict[str, Any]:
    """Return the limits of an encoder-decoder model, JSON-ready; padding counts on either side.

    Args:
        model: the exported model; its config may set a limit that no table shows.
        encoder: the unit that takes the source.
        first_step: the unit that takes the prompt of the decoder.
        step: the unit that takes one decoder token and the caches.
        states: the fixed length of the encoder's output if it takes features, no token ids.
        block: the tokens of which a source has a multiple; the encoder takes [B, S / block, block].

    Returns:
        "limits" (see `Limits`), "vocabulary" of the decoder, and "max_positions" of the source.
    """
    of_config = positions_of(text_config(model))
    reads, starts, goes_on = map(bounds_of_step, (encoder, first_step, step))
    source: dict[str, Any] = {"vocabulary": 0, "length": states}
    if states is None:
        blocks = reads.longest(encoder.program, "input_ids", 1)
        source = {
            "vocabulary": reads.below.get("input_ids", _vocabulary(model)),
            "length": _least(
                of_config,
                None if blocks is None else blocks * block,
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
    longest = _least(source["length"], *(_longest(unit, "source") for unit in (encoder, first_step, step)))
    return {
        "vocabulary": decoder["vocabulary"],
        "max_positions": longest,
        "limits": {
            "source": source,
            "decoder": decoder,
            "width": int(shape_of(hidden)[2]),
            "bounds": bounds_of([encoder, first_step, step]),
            "block": block,
        },
    }


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
    starts, goes_on = map(bounds_of_step, (first_step, step))
    cached = goes_on.longest(step.program, "caches_0", 2)
    of_config = positions_of(text_config(model))
    counts_attended = _reads_positions(first_step)
    limits = {
        "vocabulary": _least(starts.below.get("input_ids"), goes_on.below.get("input_ids"))
        or _vocabulary(model),
        "length": _least(
            None if counts_attended else of_config,
            starts.longest(first_step.program, "input_ids", 1),
            None if cached is None else cached + 1,
            _window_of_the_cache(model),
        ),
        "positions": _least(
            of_config if counts_attended else None,
            starts.below.get("position_ids"),
            goes_on.below.get("position_ids"),
        ),
    }
    longest = _least(limits["length"], limits["positions"], _longest(first_step, "tokens"))
    return {
        "vocabulary": limits["vocabulary"],
        "max_positions": longest,
        "limits": {
            "source": limits,
            "decoder": limits,
            "width": None,
            "bounds": bounds_of([first_step, step]),
        },
    }


def _reads_positions(unit: LoweringContext) -> bool:
    return any(node.users for node in unit.graph.find_nodes(op="placeholder") if node.name == "position_ids")


def _window_of_the_cache(model: PreTrainedModel) -> int | None:
    """The tokens that transformers' cache keeps, where the model itself has no mask of such a window.

    Beyond it the prompt attends to everything and later tokens to the window only (Moshi): a compiled model,
    which keeps all tokens, ends there.
    """
    if any(hasattr(sys.modules.get(type(part).__module__), _SLIDING_MASK) for part in model.modules()):
        return None
    windows = [
        getattr(layer, "sliding_window", None) for layer in DynamicCache(config=text_config(model)).layers
    ]
    return _least(*windows)


_SLIDING_MASK = "create_sliding_window_causal_mask"


def table_rows(model: Any) -> int:
    """Return the number of tokens that a model, or the encoder or decoder of one, has embeddings for."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else model.embed_tokens
    return int(table.num_embeddings)


def bounds_of(units: Iterable[LoweringContext]) -> dict[str, list[dict[str, Any]]]:
    """What the branches of the forward require of the sizes of each unit's calls, by unit."""
    return {unit.name: [bound.to_dict() for bound in unit.bounds] for unit in units if unit.bounds}


def _longest(unit: LoweringContext, size: str) -> int | None:
    return _least(*(bound.limit for bound in unit.bounds if bound.size == size and bound.largest))


def text_config(model: PreTrainedModel) -> Any:
    """The config of the part that writes text; that of the model, unless it is composed of several."""
    config = model.config
    return config if hasattr(config, "vocab_size") else config.get_text_config(decoder=True)


def _vocabulary(model: PreTrainedModel) -> int:
    return int(text_config(model).vocab_size)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
