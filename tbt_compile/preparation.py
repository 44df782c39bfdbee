"""`plan` and `prepare` insert quantizers into a full-precision model for quantization-aware training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.adapters.wrappers import check_growable, renew, unwrapped
from tbt_compile.dtypes import check_dtypes, forget_quantization
from tbt_compile.errors import CaptureError, PlanError, did_you_mean
from tbt_compile.modules import is_prepared
from tbt_compile.modules.exported_mode import follow_mode
from tbt_compile.passes.prepare.capture import split_example_inputs
from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.pipeline import PLAN, PREPARE
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.quantizers.first_batch import same_batch
from tbt_compile.recipe import Recipe

log = logging.getLogger(__name__)
ModelT = TypeVar("ModelT", bound=nn.Module)
DEFAULT_RECIPE = "2-2-2"


def plan(
    model: nn.Module | ExportedProgram,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    *,
    dump: str | Path | None = None,
) -> QuantPlan:
    """Return what `prepare` would do to the model, and why, without changing the model.

    Args:
        model: as for `prepare`.
        recipe: as for `prepare`.
        example_inputs: as for `prepare`.
        dump: folder to which every phase writes its graph and findings.

    Returns:
        The plan: every quantized module with its encodings, what stays in full precision, and as far as the
        captured graph shows it, what `lower` will refuse.

    Raises:
        RecipeError, CaptureError, PlanError: as for `prepare`.
    """
    module, inputs = opened(model, example_inputs)
    return PLAN.run(make_context(module, recipe, inputs), dump).planned


@overload
def prepare(
    model: ModelT,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    *,
    dump: str | Path | None = None,
) -> ModelT: ...
@overload
def prepare(
    model: ExportedProgram,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    *,
    dump: str | Path | None = None,
) -> fx.GraphModule: ...
def prepare(
    model: Any,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    *,
    dump: str | Path | None = None,
) -> Any:
    """Insert quantizers into a model, in place, and return the model.

    The model keeps its class, parameter names and tied weights, and trains, generates and saves as before.
    Build the optimizer afterwards: quantizers have parameters (learned scales), initialized from the first
    batch. To get the attention maps of a transformers model, call it with `output_attentions=True`;
    transformers refuses that setting in the config.

    What `lower` will refuse is logged as a warning as far as the captured graph shows it, and so are patterns
    of the recipe that match nothing.

    `from_pretrained` of transformers prepares what it reads from the folder of a prepared model, and gives it
    its exact scales back.

    Args:
        model: a transformers model, or any `nn.Module` that `torch.export` can capture, in float32, bfloat16,
            float16 or float64. A `torch.fx.GraphModule` calls its quantizers in its own graph. Of a
            `torch.export.ExportedProgram` the module is prepared and returned, in the mode in which it was
            exported; `train` and `eval` switch its dropouts and batch norms, but dropout of attention weights
            only if it was exported in training mode. Its example inputs are the default. The model inside
            DataParallel, DistributedDataParallel or torch.compile is prepared, and the wrapper is returned.
        recipe: the paper's E-W-A notation, the name of a registered recipe, or a `Recipe`. The default is
            the recipe that the model was saved with, else "2-2-2"; a model that is prepared stays as it is.
        example_inputs: a tensor, a tuple of arguments, or a dict by argument name. Not needed for
            transformers models: they are derived from the config.
        dump: folder to which every phase of the pipeline writes its graph and findings.

    Returns:
        The same model.

    Raises:
        RecipeError: the recipe does not parse.
        CaptureError: example inputs are missing or do not fit, or the model cannot be captured.
        PlanError: the model is already prepared, has nothing to quantize, holds a module that cannot be
            quantized and is not excluded, has weights that are quantized already, sharded parameters or
            adapters that are not merged, or is composed of two models.
        FormatError: the folder that the model was loaded from lacks some of its scales.
    """
    model, example_inputs = opened(model, example_inputs)
    if recipe is None and is_prepared(unwrapped(model)):
        return model
    check_growable(model)
    follow_mode(unwrapped(model))
    context = make_context(model, recipe, example_inputs)
    inner = context.model
    saved_with = context.adapter.stored_recipe(inner)
    call = call_record.record(inner, context.args, context.kwargs)
    forget_quantization(inner)
    PREPARE.run(context, dump)
    name = type(inner).__name__.removeprefix("Quantized")
    for reason in context.planned.refused:
        log.warning("lower will refuse this %s: %s", name, reason)
    for pattern in context.planned.unmatched:
        hint = did_you_mean(pattern, [site.fqn for site in context.planned])
        log.warning("the recipe's pattern %r matches nothing in this %s.%s", pattern, name, hint)
    call_record.restore(inner, call)
    renew(model)
    if saved_with == context.recipe:
        context.adapter.restore(inner)
    return model


def opened(model: Any, example_inputs: Any) -> tuple[Any, Any]:
    """Take the module, and the example inputs unless there are others, out of an exported program.

    Args:
        model: an exported program; anything else is returned as it is.
        example_inputs: as for `prepare`.

    Returns:
        The model and its example inputs.

    Raises:
        CaptureError: the program takes positional and named arguments.
    """
    if not isinstance(model, ExportedProgram):
        return model, example_inputs
    module = model.module()
    if example_inputs is None and model.example_inputs is not None:
        args, kwargs = model.example_inputs
        if args and kwargs:
            raise CaptureError(
                "this program was exported with positional and named arguments: export it with one kind"
            )
        example_inputs = kwargs or args
    return module, example_inputs


def load_prepared(folder: str | Path) -> nn.Module:
    """Load a prepared transformers model, with its scales, from the folder that `save_pretrained` wrote.

    The same as `Class.from_pretrained(folder)` with the class that was saved.

    Raises:
        FormatError: the folder does not exist, was not saved from a prepared model, or lacks some scales.
    """
    from tbt_compile.adapters.pretrained import load_float

    return prepare(load_float(folder))


def set_scales(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Run a prepared model on one batch, which sets the learned scales that are not set yet.

    The first batch of a training in one process does that by itself. In several processes call this in each
    of them with the same batch, before the model is sharded; without, the first batch is refused.

    Args:
        model: prepared, possibly in a wrapper that does not shard it.
        args, kwargs: of its forward.

    Raises:
        PlanError: the model is not prepared, or its parameters are sharded.
    """
    inner = unwrapped(model)
    if not is_prepared(inner):
        raise PlanError(
            f"this {type(inner).__name__} has no quantizers: call tbt_compile.prepare(model) first"
        )
    with torch.no_grad(), same_batch():
        inner(*args, **kwargs)


def make_context(
    model: nn.Module, recipe: str | Recipe | None = None, example_inputs: Any = None
) -> PrepareContext:
    """Build the state from which the pass pipelines of `plan` and `prepare` start.

    Args:
        model: in full precision, possibly wrapped.
        recipe: as for `prepare`.
        example_inputs: as for `prepare`.

    Returns:
        The context of the first pass.

    Raises:
        RecipeError, CaptureError, PlanError: as for `prepare`.
    """
    model = unwrapped(model)
    if is_prepared(model):
        raise PlanError(f"this {type(model).__name__} is prepared already: prepare a full-precision model")
    check_dtypes(model)
    adapter = adapter_for(model)
    adapter.check(model)
    chosen = adapter.stored_recipe(model) if recipe is None else Recipe.parse(recipe)
    inputs = adapter.example_inputs(model) if example_inputs is None else example_inputs
    args, kwargs = split_example_inputs(model, inputs)
    return PrepareContext(model, chosen or Recipe.parse(DEFAULT_RECIPE), adapter, args, kwargs)
