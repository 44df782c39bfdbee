"""The names under which users of torchao look for `prepare`."""

from __future__ import annotations

from typing import Any

from torch import nn

from tbt_compile.adapters.quantization_config import TbtConfig
from tbt_compile.preparation import prepare
from tbt_compile.recipe import Recipe


def quantize_(model: nn.Module, config: TbtConfig | Recipe | str, example_inputs: Any = None) -> None:
    """Insert quantizers into a model, in place, like `torchao.quantization.quantize_`; see `prepare`.

    Args:
        model: in full precision.
        config: the recipe, as a `TbtConfig` or as `prepare` takes it.
        example_inputs: as for `prepare`; transformers models need none.

    Raises:
        RecipeError, CaptureError, PlanError: as for `prepare`.
    """
    prepare(model, config.recipe if isinstance(config, TbtConfig) else config, example_inputs)
