"""`plan` and `prepare`: from a full-precision model to one that trains with quantizers in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.errors import PlanError
from tbt_compile.modules import is_prepared
from tbt_compile.passes.prepare.capture import split_example_inputs
from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.pipeline import PLAN, PREPARE
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.recipe import Recipe

ModelT = TypeVar("ModelT", bound=nn.Module)
DEFAULT_RECIPE = "2-2-2"


def plan(
    model: nn.Module,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    *,
    dump: str | Path | None = None,
) -> QuantPlan:
    """What `prepare` would do to the model, and why; the model is not changed.

    Arguments and errors are those of `prepare`.
    """
    return PLAN.run(make_context(model, recipe, example_inputs), dump).planned


def prepare(
    model: ModelT,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    *,
    dump: str | Path | None = None,
) -> ModelT:
    """Put quantizers into a model, in place, and return it.

    The model keeps its class, parameter names and tied weights, and trains, generates and saves as before.
    Build the optimizer afterwards: the quantizers bring parameters of their own (learned scales), which take
    their first value from the first batch. Attention maps of a transformers model come with the keyword
    `output_attentions=True`; setting it in the config is refused by transformers.

    A model that `from_pretrained` read from the folder of a prepared one gets its scales back, exactly.

    Args:
        model: a transformers model or any `nn.Module` that `torch.export` can capture.
        recipe: the paper's E-W-A notation, the name of a registered recipe, or a `Recipe`. By default the
            one that the model was saved with, else "2-2-2".
        example_inputs: a tensor, a tuple of arguments, or a dict by argument name. Models of transformers
            need none: they are made from the config.
        dump: a folder that every phase of the pipeline writes its graph and findings to.

    Raises:
        RecipeError: the recipe is not understood.
        CaptureError: example inputs are missing or do not fit, or the model cannot be captured.
        PlanError: the model is prepared already, has nothing to quantize, or holds a module that cannot be
            quantized and is not excluded.
        FormatError: the folder that the model was loaded from has lost scales.
    """
    context = make_context(model, recipe, example_inputs)
    saved_with = context.adapter.stored_recipe(model)
    call = call_record.record(model, context.args, context.kwargs)
    PREPARE.run(context, dump)
    call_record.restore(model, call)
    if saved_with == context.recipe:
        context.adapter.restore(model)
    return model


def load_prepared(folder: str | Path) -> nn.Module:
    """A prepared transformers model from the folder that its `save_pretrained` wrote, scales included.

    The class is the one that was saved; `prepare(Class.from_pretrained(folder))` does the same.

    Raises:
        FormatError: the folder does not exist, was not saved from a prepared model, or has lost scales.
    """
    from tbt_compile.adapters.pretrained import load_float

    return prepare(load_float(folder))


def make_context(
    model: nn.Module, recipe: str | Recipe | None = None, example_inputs: Any = None
) -> PrepareContext:
    """The state that the pipelines start from. Raises the errors of `prepare`."""
    if is_prepared(model):
        raise PlanError(f"this {type(model).__name__} is prepared already: prepare a full-precision model")
    adapter = adapter_for(model)
    chosen = adapter.stored_recipe(model) if recipe is None else Recipe.parse(recipe)
    inputs = adapter.example_inputs(model) if example_inputs is None else example_inputs
    args, kwargs = split_example_inputs(model, inputs)
    return PrepareContext(model, chosen or Recipe.parse(DEFAULT_RECIPE), adapter, args, kwargs)
