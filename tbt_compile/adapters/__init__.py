"""Adapters hold everything that is specific to the library a model comes from."""

from __future__ import annotations

import sys

from torch import nn

from tbt_compile.adapters.base import Adapter

__all__ = ["Adapter", "adapter_for"]


def adapter_for(model: nn.Module) -> Adapter:
    """Return the adapter for a model; transformers is imported only if the model may come from it."""
    if "transformers" in sys.modules:
        from transformers import PreTrainedModel

        from tbt_compile.adapters.huggingface import HuggingFaceAdapter

        if isinstance(model, PreTrainedModel):
            return HuggingFaceAdapter()
    return Adapter()
