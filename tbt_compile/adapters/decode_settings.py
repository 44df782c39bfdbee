"""Decode settings: what the runtime needs to know about a text-generation model besides its functions."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def decode_settings(model: PreTrainedModel, layers: int) -> dict[str, Any]:
    """Return the decode settings of a model as JSON-ready values.

    `layers` is the number of decoder layers. `max_positions` is None for relative positions.
    """
    generation = {
        name: value
        for name, value in model.generation_config.to_diff_dict().items()
        if isinstance(value, (bool, int, float, str, list)) and name != "transformers_version"
    }
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:  # caps the default length, as in transformers
        generation["max_position_embeddings"] = int(limit)
    return {
        "generation": generation,
        "vocabulary": int(model.config.vocab_size),
        "layers": layers,
        "max_positions": limit,
    }
