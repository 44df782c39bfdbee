"""`lower` compiles a prepared or frozen model to a library for one CPU, or for several."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tbt_compile.dtypes import described
from tbt_compile.freezing import FrozenModel, freeze
from tbt_compile.storage import model_folder

if TYPE_CHECKING:
    from tbt_compile.adapters.units import ExportUnits
    from tbt_compile.codegen.library.build import BuiltUnits
    from tbt_compile.codegen.target.isa import Isa
    from tbt_compile.codegen.target.parse import Target
    from tbt_compile.codegen.target.spec import TargetSpec
    from tbt_compile.runtime.builds import Build
    from tbt_compile.runtime.compiled_model import CompiledModel
    from tbt_compile.runtime.compiled_module import CompiledModule

log = logging.getLogger(__name__)


def lower(
    model: nn.Module | FrozenModel,
    target: Target | Sequence[Target] = "host",
    num_threads: int | None = None,
    *,
    shortlist: Sequence[int] | None = None,
    dynamic_shapes: Any = None,
    dump: str | Path | None = None,
    clock: bool = False,
) -> CompiledModel | CompiledModule:
    """Compile a model for one or more CPUs: export units -> graph passes -> Relax -> TIR -> LLVM.

    A transformers model that generates text, encoder-decoder or decoder-only, becomes a `CompiledModel`
    with dynamic batch and sequence lengths. Any other module becomes a `CompiledModule`, called with arrays
    like the example inputs that it was prepared with. Its first dimension is dynamic if the module allows
    that and the examples have at least two rows, and so are those that are dynamic in the exported program
    that was prepared or in `dynamic_shapes`; other sizes are static. A call for which the forward would take
    another branch than for the examples is refused.

    The chosen kernels are logged (level INFO) and recorded in the manifest of the saved folder.

    Args:
        model: a frozen model, or a prepared one, which is frozen first.
        target: "host", a CPU name, one with a system as in "haswell windows", "llvm -mcpu=NAME", or a dict
            (see `tbt targets`). A model compiled for another machine can be saved but not run here. A list
            gives one library per CPU and system; a machine uses the best one that it can run. Weights that
            several libraries read in the same layout are stored once.
        num_threads: threads to run with (default: `TVM_NUM_THREADS`, else one per CPU).
        shortlist: ids of the tokens that the model may write, to which those in its generation config are
            added (default: the whole vocabulary). A step computes the logits of these tokens only. The
            output is that of the whole model with all other tokens suppressed; beam search renormalizes the
            scores over the shortlist, like `renormalize_logits`. Sources and prompts may hold any token.
        dynamic_shapes: of a module that generates no text: which dimensions of its inputs are dynamic besides
            the first, in the form that torch.export takes: `{"input_ids": {1: Dim.AUTO}}`,
            `{"x": {1: Dim("length", max=512)}}`.
        dump: folder to which every phase of the pipeline writes its graphs.
        clock: time every step of the compiled model; see `CompiledModel.times`.

    Returns:
        A `CompiledModel` or a `CompiledModule`, ready to run if this machine supports one of the targets.

    Raises:
        FormatError: the user's tile file cannot be read.
        TargetError: a target is unknown, a CPU is listed twice for one system, or `clock` is set for Windows.
        PlanError: the model is not prepared, or was never run.
        LoweringError: the model holds an operation without a compiled operator, is no function of its inputs,
            or branches in a way that no bound on a size expresses; its generation config has a field that
            cannot be kept; the shortlist does not fit the model; a dimension in `dynamic_shapes` does not
            exist, or the forward fixes it.
    """
    from tbt_compile.adapters import adapter_for
    from tbt_compile.adapters.decode_settings import generation_file
    from tbt_compile.adapters.shortlist import shortlist_of
    from tbt_compile.codegen.target import tiles
    from tbt_compile.codegen.target.parse import parse_targets
    from tbt_compile.inspection.summarize import SUMMARY, recorded_layers
    from tbt_compile.lowered_units import exported_units
    from tbt_compile.runtime.compiled_model import SHORTLIST, CompiledModel
    from tbt_compile.runtime.compiled_module import CompiledModule

    specs = parse_targets(target)
    tiles.read(tiles.user_path())  # refuses a broken file before the export
    module = model.module if isinstance(model, FrozenModel) else model
    adapter_for(module).check_lowering(module)
    frozen = model if isinstance(model, FrozenModel) else freeze(model)
    ids = None if shortlist is None else shortlist_of(frozen.module, shortlist)
    builds: list[Build] = []
    tensors: dict[str, Any] = {}
    with exported_units(frozen.module, ids, dynamic_shapes) as (exported, lookups):
        repeated = len({spec.mcpu for spec in specs}) < len(specs)
        layers = recorded_layers(frozen)
        for spec in specs:
            name = f"{spec.mcpu}-{spec.system.name}" if repeated else spec.mcpu
            folder = None if dump is None else Path(dump) / (name if len(specs) > 1 else "")
            build, arrays = _build(frozen, exported, spec, folder, clock)
            builds.append(_with_shared_tensors(build, arrays, tensors))
    if ids is not None:
        tensors[SHORTLIST] = ids
    kind = next(kind for kind in (CompiledModel, CompiledModule) if exported.kind == kind.KIND)
    described = {**_description(frozen, exported), **lookups, SUMMARY: layers}
    files = generation_file(frozen.module) if exported.kind == model_folder.GENERATOR else {}
    return kind(builds, described, tensors, num_threads=num_threads, files=files)


def _build(
    frozen: FrozenModel, exported: ExportUnits, spec: TargetSpec, dump: Path | None, clock: bool
) -> tuple[Build, dict[str, Any]]:
    """Build the library for one CPU; returns it with its tensors by name."""
    from tbt_compile.codegen.kernels.float_ops.vocabulary import search_functions
    from tbt_compile.codegen.library.build import compile_units
    from tbt_compile.codegen.target import tiles
    from tbt_compile.lowered_units import lowered_units, tensor_names
    from tbt_compile.runtime.builds import Build

    start = time.perf_counter()
    log.info("lowering %s for %s", " and ".join(unit.name for unit in exported.contexts), spec.mcpu)
    units = lowered_units(exported, type(frozen.module).__name__, dump)
    known = tensor_names(frozen.module)
    with tiles.recording() as chosen:
        searching = search_functions(spec.isa) if exported.kind == model_folder.GENERATOR else {}
        built = compile_units(units, spec, known, dump, clock, searching)
    log.info(
        "compiled %s for %s (%s) in %.1f s with the kernels %s and the tiles %s",
        type(frozen.module).__name__,
        spec.mcpu,
        spec.isa,
        time.perf_counter() - start,
        ", ".join(built.kernels),
        ", ".join(f"{kernel}: {tile}" for kernel, tile in chosen.items()),
    )
    facts = {
        "target": spec.as_dict(),
        "features": sorted(spec.features),
        "kernels": built.kernels,
        "isa": tiles.isa_class(spec.isa),
        "tiles": chosen,
        "functions": {unit: [p.name for p in parameters] for unit, parameters in built.parameters.items()},
        "outputs": built.outputs,
        "stacks": built.stacks,
        "clock": built.steps if clock else {},
        "reads": built.reads if clock else {},
    }
    return Build(facts, built.library), _arranged(built, spec.isa)


def _arranged(built: BuiltUnits, isa: Isa) -> dict[str, Any]:
    """Return the tensors of all units by name, each once, as NumPy arrays in the layout of the kernels."""
    parameters = {p.name: p for unit in built.parameters.values() for p in unit}
    return {
        name: parameter.arrange(built.tensors[name].detach().cpu().numpy(), isa)
        for name, parameter in parameters.items()
    }


def _with_shared_tensors(build: Build, arrays: dict[str, Any], tensors: dict[str, Any]) -> Build:
    """Add the arrays of a build to `tensors`, and rename its parameters to the names they have there."""
    from tbt_compile.runtime.builds import add_tensors

    names = add_tensors(tensors, arrays)
    functions = build.facts["functions"].items()
    build.facts["functions"] = {unit: [names[name] for name in used] for unit, used in functions}
    return build


def _description(frozen: FrozenModel, exported: ExportUnits) -> dict[str, Any]:
    """Return the part of the manifest that does not depend on the CPU."""
    return {
        "recipe": frozen.recipe.to_dict(),
        "class": type(frozen.module).__name__.removeprefix("Quantized"),
        "dtype": described(frozen.dtypes),
        "versions": {name: version(name) for name in ("torch", "transformers", "apache-tvm")},
        **exported.settings,
    }
