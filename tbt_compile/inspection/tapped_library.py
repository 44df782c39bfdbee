"""A library of a compiled model that shows what its nodes compute, bound to the tensors of that model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.importer.caches import caches_of
from tbt_compile.codegen.kernels.float_ops.vocabulary import search_functions
from tbt_compile.codegen.library.build import BuiltUnits, compile_units
from tbt_compile.errors import PlanError
from tbt_compile.passes.lowering import LoweringContext
from tbt_compile.passes.lowering.add_taps import add_taps
from tbt_compile.runtime.bound_library import Array, BoundLibrary, Tensor, as_array
from tbt_compile.runtime.compiled_library import CompiledLibrary
from tbt_compile.runtime.tvm_runtime import shared_tensor
from tbt_compile.storage.aligned import aligned_copy
from tbt_compile.storage.model_folder import GENERATOR

Observer = Callable[[str, list[Array], list[Array]], None]
"""Called with a unit, its inputs and its outputs, taps last; caches of a stack are separate arrays."""


class TappedLibrary(BoundLibrary):
    """Stands in for the library of a compiled model, and shows every call to an observer.

    Each call is made with the library under test, too, and its outputs are compared bit for bit.

    Args:
        units: lowered; their graphs are changed in place.
        known: names of the frozen model's tensors by address.
        compiled: the model under test.
        tested: its library.
        tensors: its tensors, which the nodes read.

    Attributes:
        taps: for each unit, the nodes whose results follow its outputs.
        observe: called after every call.
        same: whether all outputs so far were those of the library under test.

    Raises:
        PlanError: the compiled model was made from another model.
    """

    def __init__(
        self,
        units: list[LoweringContext],
        known: dict[int, str],
        compiled: CompiledLibrary,
        tested: BoundLibrary,
        tensors: Mapping[str, Array],
    ) -> None:
        self.taps = {unit.name: add_taps(unit) for unit in units}
        self._inputs = {unit.name: len(unit.program.graph_signature.user_inputs) for unit in units}
        target = compiled.target
        searching = search_functions(target.isa) if compiled.KIND == GENERATOR else {}
        built = compile_units(units, target, known, extra=searching)
        # Binding has put the parameters behind the inputs.
        self._caches = {unit.name: caches_of(unit, self._inputs[unit.name]) for unit in units}
        functions = {name: [each.name for each in used] for name, used in built.parameters.items()}
        bound = _tensors_of(built, compiled, tensors)
        super().__init__(built.library, functions, built.outputs, bound, {}, built.stacks)
        self._tested = tested
        self.observe: Observer = lambda _unit, _inputs, _outputs: None
        self.same = True

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """As `BoundLibrary.call`, without the taps."""
        outputs = super().call(name, *inputs)
        own = len(outputs) - len(self.taps[name])
        tested = self._tested.call(name, *inputs)
        self._compare(name, inputs, outputs, tested)
        return outputs[:own]

    def call_into(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """As `BoundLibrary.call_into`; caches that grow are copied for the library under test.

        Args:
            name: of the function.
            inputs: its inputs, in order.
            outputs: those of the unit, without taps.
        """
        copies = [shared_tensor(aligned_copy(as_array(output))) for output in outputs]
        self._tested.call_into(name, inputs, copies)
        taps = self.outputs(name, *inputs)[len(outputs) :]
        super().call_into(name, inputs, [*outputs, *taps])
        self._compare(name, inputs, [*outputs, *taps], copies)

    def _compare(
        self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tested: Sequence[Tensor]
    ) -> None:
        pairs = zip(map(as_array, outputs), map(as_array, tested), strict=False)
        self.same &= all(same_bits(one, other).all() for one, other in pairs)
        caches = self._caches[name]
        given = _apart(inputs, self._inputs[name], [[place for place, _ in stack] for stack in caches.stacks])
        count = len(outputs) + sum(len(stack) - 1 for stack in caches.stacks)
        found = _apart(outputs, count, [[place for _, place in stack] for stack in caches.stacks])
        self.observe(name, given, found)


def same_bits(one: Array, other: Array) -> npt.NDArray[np.bool_]:
    """Where two arrays of one dtype and shape have the same bits."""
    if one.dtype.kind != "f":
        return one == other
    bits = f"u{one.itemsize}"
    return np.ascontiguousarray(one).view(bits) == np.ascontiguousarray(other).view(bits)


def _apart(arguments: Sequence[Tensor], count: int, stacks: Sequence[Sequence[int]]) -> list[Array]:
    """The tensors of a unit's arguments in order; the caches of a stack are one argument."""
    found: dict[int, Array] = {}
    members = {place: stack for stack in stacks for place in stack}
    given = map(as_array, arguments)
    for place in range(count):
        stack = members.get(place)
        if stack is None:
            found[place] = next(given)
        elif stack[0] == place:
            found |= dict(zip(stack, next(given), strict=True))
    return [found[place] for place in range(count)]


def _tensors_of(
    built: BuiltUnits, compiled: CompiledLibrary, stored: Mapping[str, Array]
) -> dict[str, Array]:
    """The tensors of the compiled model under the names of the built units; constants are the units' own."""
    tensors: dict[str, Array] = {}
    for unit, parameters in built.parameters.items():
        names = compiled.description["functions"].get(unit, [])
        for index, parameter in enumerate(parameters):
            own = parameter.arrange(built.tensors[parameter.name].detach().cpu().numpy(), compiled.target.isa)
            if parameter.name.startswith(f"{unit}.constant_"):
                tensors[parameter.name] = own
                continue
            name = names[index] if index < len(names) else ""
            found = stored.get(name)
            if name.partition("@")[0] != parameter.name or found is None or found.shape != own.shape:
                raise PlanError(
                    f"the compiled {compiled.description['class']} has no tensor {parameter.name} of shape "
                    f"{list(own.shape)}: it was lowered from another model or with other options; lower this "
                    "model, or give the one that was lowered"
                )
            tensors[parameter.name] = found
    return tensors
