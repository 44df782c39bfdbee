"""`verify` compares a compiled model, node by node and token by token, with the model it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tbt_compile.errors import PlanError
from tbt_compile.inspection.checks import Verification
from tbt_compile.inspection.compared_runs import run_generator, run_module
from tbt_compile.runtime.compiled_model import CompiledModel

if TYPE_CHECKING:
    from torch import nn

    from tbt_compile.freezing import FrozenModel
    from tbt_compile.runtime.compiled_library import CompiledLibrary

LEAST = 0.99
"""Share of tokens that have to be equal."""


def verify(
    model: nn.Module | FrozenModel,
    compiled: CompiledLibrary,
    inputs: Any = None,
    *,
    least: float = LEAST,
    dynamic_shapes: Any = None,
    **settings: Any,
) -> Verification:
    """Check that a compiled model computes what its frozen model computes.

    The model is lowered once more with the result of every operator as a further output, and this library
    reads the tensors of the compiled model. It runs on the inputs; each operator is computed again in
    PyTorch, with the definitions of `docs/numerics.md`, from the operands that compiled code computed, and
    compared bit for bit. Every call is made with the library under test as well, whose outputs have to be the
    same bits. Last, tokens (or results) are compared with those of the given model in PyTorch.

    Args:
        model: that was lowered, frozen or prepared; a prepared one is frozen for the nodes, and writes its
            tokens with PyTorch's floats.
        compiled: a library in it has to run on this machine.
        inputs: of `generate` for a model of text, by name, such as `{"input_ids": ids}` padded as it takes
            them; of a call for any other, as `example_inputs` of `prepare`. The default are example inputs.
        least: the share of tokens that has to be equal, 0 to 1.
        dynamic_shapes: as given to `lower`.
        settings: of `generate`, such as `num_beams` and `max_new_tokens`, which is 8 by default.

    Returns:
        What was found; `ok` sums it up.

    Raises:
        PlanError: `compiled` was lowered from another model or with other options; the model is not prepared.
        TargetError: it was compiled for another machine.
    """
    from tbt_compile.freezing import FrozenModel, freeze
    from tbt_compile.inspection.replay import UnitReplay
    from tbt_compile.inspection.tapped_library import TappedLibrary
    from tbt_compile.lowered_units import exported_units, lowered_units, tensor_names

    frozen = model if isinstance(model, FrozenModel) else freeze(model)
    _check_origin(frozen, compiled)
    with exported_units(frozen.module, getattr(compiled, "shortlist", None), dynamic_shapes) as (exported, _):
        name, known = type(frozen.module).__name__, tensor_names(frozen.module)
        units, shown = (lowered_units(exported, name) for _ in range(2))  # compiling changes a unit
        tapped = compiled.with_library(
            lambda tested, tensors: TappedLibrary(shown, known, compiled, tested, tensors)
        )
        library: Any = tapped.library
        replays = {unit.name: UnitReplay(unit, library.taps[unit.name]) for unit in units}
        library.observe = lambda unit, given, found: replays[unit].compare(given, found)
    # Outside: inside, a model with a shortlist has the shorter head.
    run = run_generator if isinstance(compiled, CompiledModel) else run_module
    tokens, equal = run(model, frozen, tapped, inputs, settings)
    nodes = tuple(check for replay in replays.values() for check in replay.checks())
    name, label = compiled.description["class"], compiled.target.label
    return Verification(name, label, nodes, library.same, tokens, equal, least)


def _check_origin(frozen: FrozenModel, compiled: CompiledLibrary) -> None:
    """Refuse a compiled model that was plainly made from another one, before work is done."""
    name = type(frozen.module).__name__.removeprefix("Quantized")
    given, found = f"{name} at {frozen.recipe}", f"{compiled.description['class']} at {compiled.recipe}"
    if given != found or frozen.recipe != compiled.recipe:
        raise PlanError(f"a {given} and a compiled {found}: give the model that was lowered")
