"""Rotary position embeddings whose frequencies change with the length of a call.

transformers reads the positions of every call and keeps what it finds for the next one. A compiled model has
no such state: it ends where the frequencies change, at a limit in the manifest; longer calls are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def original_frequencies(model: nn.Module) -> Iterator[None]:
    """Keep dynamic RoPE at its original frequencies in the `with` block, whatever the positions.

    They are those of all calls up to `max_position_embeddings`, the limit that `positions_of` returns. What a
    longer call left behind is reset, as the next short call would.
    """
    changed: list[tuple[Any, Any]] = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        named = kinds if isinstance(kinds, Mapping) else {"": kinds}
        dynamic = [layer for layer, kind in named.items() if isinstance(kind, str) and "dynamic" in kind]
        if not dynamic:
            continue
        for layer in dynamic:
            _reset(module, f"{layer}_" if layer else "")
        changed.append((module, kinds))
        fixed = {layer: "default" if layer in dynamic else kind for layer, kind in named.items()}
        module.rope_type = fixed if isinstance(kinds, Mapping) else fixed[""]  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, kinds in changed:
            module.rope_type = kinds


def _reset(module: Any, prefix: str) -> None:
    original = getattr(module, f"{prefix}original_inv_freq")
    module.register_buffer(f"{prefix}inv_freq", original.clone(), persistent=False)
    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def positions_of(config: Any) -> int | None:
    """Return the largest number of positions at which one graph computes what the model computes, if any.

    Dynamic RoPE has other frequencies beyond `max_position_embeddings`. With LongRoPE (Phi-3) other
    frequencies apply to all positions beyond the original length; transformers drops the cache there and
    reads everything again, which a compiled step cannot do.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    layers = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    limits = [
        part.get(
            "original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None)
        )
        for part in layers
        if part.get("rope_type") == "longrope"
    ]
    limits.append(getattr(config, "max_position_embeddings", None))
    return min((int(limit) for limit in limits if limit is not None), default=None)
