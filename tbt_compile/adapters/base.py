"""What the passes need to know about a model beyond its graph, for models of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tbt_compile.adapters.units import ExportUnits
from tbt_compile.errors import CaptureError
from tbt_compile.modules import QuantizedEmbedding, QuantizedLinear
from tbt_compile.recipe import Recipe


class Adapter:
    """Knowledge about plain `nn.Module`s; subclasses know more about models of one library."""

    def example_inputs(self, model: nn.Module) -> dict[str, Tensor]:
        """Keyword arguments to capture the model with.

        Raises:
            CaptureError: they cannot be derived from the model and have to be given.
        """
        raise CaptureError(
            f"example inputs of {type(model).__name__} cannot be derived: pass example_inputs=(x, ...) or "
            "example_inputs={'name': x, ...} with tensors as its forward takes them"
        )

    @contextmanager
    def capturing(self, model: nn.Module) -> Iterator[None]:
        """A context in which softmax and both attention products show in the exported graph."""
        del model
        yield

    def output_projection(self, model: nn.Module) -> str | None:
        """Dotted name of the linear layer that computes the logits, if it can be told.

        In a plain module it is the `nn.Linear` whose weight is also the weight of an embedding.
        """
        shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and id(module.weight) in shared:
                return name
        return None

    def attention_function(self, module: nn.Module) -> Callable[..., Any] | None:
        """The function that this attention module calls for its core, if it can be replaced from outside.

        It takes the module first. None means that the module's own `forward` holds the products.
        """
        del module
        return None

    def quantized_form(self, module: nn.Module) -> type[nn.Module] | None:
        """The class that a linear or embedding module is converted to; None for an unknown kind."""
        if isinstance(module, nn.Linear):
            return QuantizedLinear
        return QuantizedEmbedding if isinstance(module, nn.Embedding) else None

    def stored_recipe(self, model: nn.Module) -> Recipe | None:
        """The recipe that the model was prepared with, or, before that, saved with."""
        return getattr(model, "tbt_recipe", None)

    def restore(self, model: nn.Module) -> None:
        """Load the state of the quantizers of a prepared model from the folder that it was loaded from."""

    def export_units(self, model: nn.Module) -> ExportUnits:
        """A frozen model as the functions that are compiled: one call of its forward.

        Raises:
            LoweringError: the model cannot be captured in this form.
        """
        from tbt_compile.adapters.module_unit import export_module

        return export_module(model)

    def finish(self, model: nn.Module, recipe: Recipe) -> None:
        """Last step of preparing, after all modules are converted; remembers the recipe."""
        model.tbt_recipe = recipe  # type: ignore[assignment]
