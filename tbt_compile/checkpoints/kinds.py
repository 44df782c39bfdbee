"""What kind of checkpoint a path is; needs neither torch nor transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METHOD = "tbt"
"""The name of this package's quantization in transformers."""
KEY = "quantization_config"
EARLIER_KEY = "tbt_recipe"
"""Where a config says how the model is quantized, and where it said so before."""
PREPARED, PACKED = "prepared", "packed"
"""Models that train on, and those with packed tensors."""

_SUFFIX, _MAGIC = ".gguf", b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its name or its first bytes."""
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == _SUFFIX or file.read(len(_MAGIC)) == _MAGIC


def kind_of(config: Mapping[str, Any]) -> str | None:
    """What the fields of a `config.json` say: `PREPARED`, `PACKED`, or None for a model of another kind."""
    found = config.get(KEY) if isinstance(config, Mapping) else None
    quantization = found if isinstance(found, Mapping) else {}
    if quantization.get("quant_method") != METHOD:
        return PREPARED if isinstance(config, Mapping) and EARLIER_KEY in config else None
    return PACKED if quantization.get("frozen") else PREPARED
