"""`collect` gathers what a report shows from a model at any stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tbt_compile.errors import PlanError, RecipeError, TbtError
from tbt_compile.extras import require_extra
from tbt_compile.inspection.layers import Summary
from tbt_compile.inspection.summarize import summary
from tbt_compile.report.results import benchmark, samples
from tbt_compile.report.sections import Graphs, Histograms, Missing, Report
from tbt_compile.report.times import times_of
from tbt_compile.table import amount, mebibytes

if TYPE_CHECKING:
    from torch import nn

    from tbt_compile.recipe import Recipe

SectionT = TypeVar("SectionT")
TOKENS = 64
_COMPILED = (
    "A compiled model holds no graph and no layouts of codes that can be read: report the folder that it was "
    "compiled from, and name this one with --compiled."
)
_UNCOMPILED = "No compiled model was given: `tbt lower FOLDER --clock -o OUT`, then `--compiled OUT`."


def collect(
    model: Any,
    *,
    recipe: str | Recipe | None = None,
    example_inputs: Any = None,
    ids: Sequence[int] | None = None,
    compiled: Any = None,
    benchmarks: Sequence[Path] = (),
    texts: Mapping[str, Path] | None = None,
) -> Report:
    """Gather everything about a model that can be had; a section that cannot says why.

    Args:
        model: in full precision, prepared, frozen or compiled; it is not changed. For a compiled one no torch
            is needed.
        recipe: for a model in full precision; the default is that of `prepare`.
        example_inputs: as for `prepare`, also the call whose activations are counted.
        ids: tokens of a text that is that call for a transformers model of text; None for random ones.
        compiled: the same model compiled, for its sizes and its times by layer.
        benchmarks: files that `tbt bench generate --json` wrote.
        texts: files that `tbt run --json` wrote, by the name that the model is to have.

    Returns:
        The report.

    Raises:
        DataError: a file cannot be read, or holds something else.
        PlanError: `compiled` is not the same model, or was written by a release that recorded no layers.
        RecipeError: the recipe does not parse, or the model has one already.
    """
    results: dict[str, Any] = {}
    if benchmarks:
        results["benchmarks"] = tuple(map(benchmark, benchmarks))
    if texts:
        results["samples"] = samples(texts)
    if hasattr(model, "description"):
        if compiled is not None:
            raise PlanError("the model is compiled already: leave `compiled` out")
        parts = _Parts("compiled", summary(model), Missing(_COMPILED), Missing(_COMPILED))
        compiled = model
    else:
        with require_extra():
            parts = _of_torch(model, recipe, example_inputs, ids)
    found = parts.summary
    if compiled is not None and compiled is not model:
        found = _with_sizes(found, summary(compiled))
    return Report(
        title=f"{found.model}{f' at {found.recipe}' if found.recipe else ''}",
        facts=(("stage", parts.stage), *_facts(found)),
        summary=found.to_dict(),
        graphs=parts.graphs,
        histograms=parts.histograms,
        times=Missing(_UNCOMPILED) if compiled is None else _or_missing(lambda: times_of(compiled)),
        **results,
    )


@dataclass(frozen=True)
class _Parts:
    """The stage of a model, and the sections that come from it."""

    stage: str
    summary: Summary
    graphs: Graphs | Missing
    histograms: Histograms | Missing


def _or_missing(make: Callable[[], SectionT]) -> SectionT | Missing:
    """A section, or why it cannot be had."""
    try:
        return make()
    except TbtError as error:
        return Missing(f"Not shown: {str(error).removesuffix('.')}.")


def _of_torch(model: Any, recipe: str | Recipe | None, inputs: Any, ids: Sequence[int] | None) -> _Parts:
    """The sections of a model that PyTorch runs; arguments as for `collect`."""
    from tbt_compile.adapters import adapter_for
    from tbt_compile.adapters.wrappers import unwrapped
    from tbt_compile.freezing import FrozenModel
    from tbt_compile.modules import evaluation_mode, is_prepared
    from tbt_compile.preparation import opened, prepare
    from tbt_compile.report.calls import representative_call
    from tbt_compile.report.graph import graphs_of
    from tbt_compile.report.histograms import histograms_of

    module, inputs = (model.module, inputs) if isinstance(model, FrozenModel) else opened(model, inputs)
    module = unwrapped(module)
    original: nn.Module | None = module
    note = "Captured from the model in full precision, with the quantizers that `prepare` would insert."
    stage = "frozen" if isinstance(model, FrozenModel) else "prepared"
    if not is_prepared(module):
        stage = "in full precision; what follows is what `prepare` would make of it, without training"
        module = evaluation_mode(prepare(copy.deepcopy(module), recipe, inputs))
    elif recipe is not None:
        raise RecipeError(
            f"recipe {str(recipe)!r} cannot be applied: the model has one already; leave it out"
        )
    else:
        original, note = _twin(module), _TWIN
        if stage == "prepared":
            module = evaluation_mode(copy.deepcopy(module))  # the call sets scales that are not set yet
    found = summary(model if stage == "frozen" else module, inputs)
    used = model.recipe if stage == "frozen" else adapter_for(module).stored_recipe(module)

    def graphs() -> Graphs:
        if original is None:
            raise PlanError(
                f"the graph is that of the module in full precision, which this {found.model} no longer is: "
                "collect the report before `prepare`"
            )
        assert used is not None, "a model with quantizers has a recipe"
        return graphs_of(original, used, note, found, inputs)

    return _Parts(
        stage,
        found,
        _or_missing(graphs),
        _or_missing(lambda: histograms_of(module, *representative_call(module, inputs, TOKENS, ids))),
    )


_TWIN = "Captured from a model of this configuration with random weights: the graph does not depend on them."


def _twin(model: nn.Module) -> nn.Module | None:
    """A full-precision transformers model of the same configuration; None for another module."""
    import transformers

    config = copy.deepcopy(getattr(model, "config", None))
    kind = getattr(transformers, type(model).__name__.removeprefix("Quantized"), None)
    if config is None or kind is None:
        return None
    if hasattr(config, "tbt_recipe"):
        del config.tbt_recipe
    twin: nn.Module = kind(config).eval()
    return twin


def _with_sizes(found: Summary, compiled: Summary) -> Summary:
    """The layers of a model with the bytes that they take compiled.

    Raises:
        PlanError: the compiled model has other layers.
    """
    sizes = {layer.name: layer.bytes_after for layer in compiled}
    names = {layer.name for layer in found}
    extra = tuple(layer for layer in compiled if layer.name not in names)
    if found.model != compiled.model or found.recipe != compiled.recipe:
        raise PlanError(
            f"the compiled model is a {compiled.model} at {compiled.recipe}, and this is a {found.model} at "
            f"{found.recipe}: name what was compiled from it"
        )
    layers = tuple(replace(layer, bytes_after=sizes.get(layer.name, 0)) for layer in found)
    return replace(found, layers=layers + extra)


def _facts(found: Summary) -> list[tuple[str, str]]:
    """What is known of the whole model."""
    facts = [
        ("recipe", found.recipe or "full precision"),
        ("parameters", amount(found.parameters)),
        ("size", f"{mebibytes(found.bytes_before)} → {mebibytes(found.bytes_after)}"),
    ]
    if found.uncounted:
        return [*facts, ("multiplications", f"not counted: {found.uncounted}")]
    total = max(1, sum(found.macs.values()))
    shares = ", ".join(f"{product}: {count / total:.1%}" for product, count in found.macs.items())
    return [*facts, ("multiplications", f"{amount(total)} ({shares}) for {found.call}")]
