"""The base adapter: what the passes must know about a plain `nn.Module` beyond its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tbt_compile.adapters import call_record
from tbt_compile.adapters.results import result_of, take_apart
from tbt_compile.adapters.units import ExportUnits
from tbt_compile.dtypes import checkpoint_dtypes
from tbt_compile.errors import CaptureError, LoweringError
from tbt_compile.modules import QuantizedEmbedding, QuantizedLinear
from tbt_compile.passes.check_autocast import check_autocast
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


class Adapter:
    """Adapter for plain `nn.Module`s; subclasses specialize it for the models of one library."""

    def check(self, model: nn.Module) -> None:
        """Check that a model of this kind can be compiled once it is trained.

        Raises:
            PlanError: it cannot, whatever the recipe.
        """

    def example_inputs(self, model: nn.Module) -> dict[str, Tensor]:
        """Make keyword arguments to capture the model with.

        Raises:
            CaptureError: they cannot be derived from the model; the user has to pass them.
        """
        raise CaptureError(
            f"example inputs of {type(model).__name__} cannot be derived: pass example_inputs=(x, ...) or "
            "example_inputs={'name': x, ...} with tensors as its forward takes them"
        )

    def example_call(self, model: nn.Module, shared: bool = False) -> dict[str, Any]:
        """Make keyword arguments to run a prepared model with.

        Args:
            model: was prepared.
            shared: whether arguments that were one tensor when it was prepared are one again.

        Returns:
            The arguments by name.

        Raises:
            LoweringError: nothing records how the model is called.
        """
        return call_record.example_call(model, shared)

    @contextmanager
    def capturing(self, model: nn.Module) -> Iterator[None]:
        """Enter a state in which an exported graph shows softmax and both attention products."""
        del model
        yield

    def output_projection(self, model: nn.Module) -> str | None:
        """Return the dotted name of the linear layer that computes the logits, or None if unknown.

        In a plain module it is the `nn.Linear` whose weight is tied to an embedding.
        """
        shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and id(module.weight) in shared:
                return name
        return None

    def attention_function(self, module: nn.Module) -> Callable[..., Any] | None:
        """Return the function through which an attention module computes its core, if it is replaceable.

        It takes the module as first argument. None means that `forward` itself holds the products.
        """
        del module
        return None

    def quantized_form(self, module: nn.Module) -> type[nn.Module] | None:
        """Return the class that a linear or embedding module is converted to, or None for other modules."""
        if isinstance(module, nn.Linear):
            return QuantizedLinear
        return QuantizedEmbedding if isinstance(module, nn.Embedding) else None

    def convert_to_float32(self, model: nn.Module) -> None:
        """Convert the float tensors of a model to float32, in place."""
        model.float()

    def stored_recipe(self, model: nn.Module) -> Recipe | None:
        """Return the recipe that the model was prepared with or, before that, saved with."""
        return getattr(model, "tbt_recipe", None)

    def checkpoint_dtypes(self, model: nn.Module) -> list[str]:
        """Return the dtypes of the checkpoint that a prepared or frozen model comes from."""
        return checkpoint_dtypes(model)

    def has_saved_weights(self, model: nn.Module, layers: Iterable[str]) -> bool:
        """Return whether the weights of layers are those in the folder that the model was loaded from."""
        del model, layers
        return False

    def restore(self, model: nn.Module) -> None:
        """Restore the quantizers of a prepared model from the folder that the model was loaded from."""

    def check_lowering(self, model: nn.Module) -> None:
        """Refuse what would otherwise fail, or be lost, only after the model is exported and compiled.

        Raises:
            LoweringError: the model is set up to do something that compiled models cannot do.
        """
        del model

    def refusals(self, context: PrepareContext) -> list[str]:
        """Return why `lower` will refuse a model, as far as its captured graph shows it.

        Args:
            context: after the capture; the graph holds no quantizers yet.

        Returns:
            One sentence for each reason.
        """
        from tbt_compile.codegen.importer.refusals import refusals

        try:
            self.check_lowering(context.model)
            self.check_call(context)
            check_autocast(context.captured.graph)
        except LoweringError as error:
            return [str(error), *refusals(context.captured.graph)]
        return refusals(context.captured.graph)

    def check_call(self, context: PrepareContext) -> None:
        """Check the arguments and the result of the captured call.

        Raises:
            LoweringError: compiled modules cannot take or return something.
        """
        name = type(context.model).__name__
        call_record.check(name, call_record.record(context.model, context.args, context.kwargs))
        take_apart(result_of(context.captured), name)

    def export_units(self, model: nn.Module) -> ExportUnits:
        """Export a frozen model as the functions to compile; here one function, a call of its forward.

        Raises:
            LoweringError: the model cannot be exported in this form.
        """
        from tbt_compile.adapters.module_unit import export_module

        return export_module(model)

    def finish(self, model: nn.Module, recipe: Recipe) -> None:
        """Finish preparing a model whose modules are all converted: record the recipe on it."""
        model.tbt_recipe = recipe  # type: ignore[assignment]

    def finish_frozen(self, model: nn.Module, recipe: Recipe, description: dict[str, Any]) -> None:
        """Finish freezing a model.

        Args:
            model: with packed weights.
            recipe: that it was prepared with.
            description: of its tensors, JSON-ready, from which its quantizers can be made again.
        """
