"""Read a unit as straight-line code: its kernel calls in order, and their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from tbt_compile.codegen.importer.caches import Caches
from tbt_compile.codegen.library.workspace import bytes_of
from tbt_compile.codegen.tvm_api import Expr, T, ir, relax
from tbt_compile.errors import LoweringError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """A tensor or a view.

    Attributes:
        key: identifies the memory: an argument, a constant or an allocation. A view shares the key of its
            base.
        shape: int64 expressions.
        dtype: of the elements.
    """

    key: int
    shape: list[Expr]
    dtype: str


@dataclass
class KernelCalls:
    """The straight-line code of a unit.

    Attributes:
        unit: name of the unit, for messages.
        values: the value of every variable by its hash: a tensor, a list of tensors or an integer.
        allocated: size in bytes of each allocation, by key.
        steps: the kernel calls: name, and arguments, which are tensors and integers.
        constants: constant tensors with their values, without duplicates.
        outputs: the results.
        caches: keys of the caches, whose heads are strided.
        stacked: for each cache of a stack, the keys of all caches of the stack, which is one argument.
    """

    unit: str
    values: dict[int, Any] = field(default_factory=dict)
    allocated: dict[int, Expr] = field(default_factory=dict)
    steps: list[tuple[str, list[Any]]] = field(default_factory=list)
    constants: list[tuple[Tensor, Array]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    caches: set[int] = field(default_factory=set)
    stacked: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def arguments(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Group tensors by argument: all caches of a stack, or a single tensor."""
        groups = []
        for tensor in tensors:
            stack = self.stacked.get(tensor.key, (tensor.key,))
            if stack[0] == tensor.key:
                groups.append([tensor, *(other for other in tensors if other.key in stack[1:])])
        return groups

    def argument_shape(self, group: list[Tensor]) -> list[Expr]:
        """The shape of an argument; a stack has an extra leading dimension."""
        shape = group[0].shape
        return [T.int64(len(group)), *shape] if group[0].key in self.stacked else shape


def read_calls(function: relax.Function, name: str, caches: Caches) -> KernelCalls:
    """Read a Relax function that only allocates tensors, views them and calls kernels.

    Args:
        function: a legalized function from `to_kernels`.
        name: of the unit.
        caches: the caches of the unit.

    Returns:
        The kernel calls in order, and their tensors.

    Raises:
        LoweringError: it does anything else, returns an input, or views a cache in another shape.
    """
    calls = KernelCalls(name)
    for variable in function.params:
        calls.values[hash(variable)] = _tensor_of(variable, hash(variable))
    for block in function.body.blocks:
        for binding in block.bindings:
            calls.values[hash(binding.var)] = _read_binding(binding.value, binding.var, calls)
    result = _operand(function.body.body, calls)
    calls.outputs = list(result) if isinstance(result, list) else [result]
    known = {*calls.allocated, *(tensor.key for tensor, _ in calls.constants)}
    if not all(output.key in known for output in calls.outputs):
        raise LoweringError(
            f"the {name} returns one of its inputs: a unit returns computed tensors and constants"
        )
    _mark_caches(function, caches, calls)
    return calls


def tensors_of(arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments of a kernel."""
    return [argument for argument in arguments if isinstance(argument, Tensor)]


def _read_binding(value: Any, variable: Any, calls: KernelCalls) -> Any:
    """The value of a binding; a kernel call is appended to the steps."""
    if not isinstance(value, relax.Call):
        return _operand(value, calls)
    if isinstance(value.op, ir.GlobalVar):
        calls.steps.append((value.op.name_hint, [_operand(argument, calls) for argument in value.args]))
        return None
    operator = value.op.name
    if operator == "relax.builtin.alloc_tensor":
        tensor = _tensor_of(variable, hash(variable))
        calls.allocated[tensor.key] = bytes_of(tensor.shape, tensor.dtype)
        return tensor
    if operator == "relax.reshape":
        base, *_ = value.args
        return _tensor_of(variable, _operand(base, calls).key)
    raise LoweringError(f"the {calls.unit} holds {operator}, which has no kernel")


def _operand(value: Any, calls: KernelCalls) -> Any:
    """The value of an operand: a tensor, a list of tensors, or an integer."""
    if isinstance(value, ir.Var) and hash(value) in calls.values:
        return calls.values[hash(value)]
    if isinstance(value, ir.Tuple):
        return [_operand(item, calls) for item in value.fields]
    if isinstance(value, ir.TupleGetItem):
        return _operand(value.tuple_value, calls)[value.index]
    if isinstance(value, ir.GenericConst):
        return _constant(value.value.numpy(), calls)
    return value


def _tensor_of(variable: Any, key: int) -> Tensor:
    return Tensor(key, list(variable.ty.shape), str(variable.ty.dtype))


def _constant(array: Array, calls: KernelCalls) -> Tensor:
    for tensor, known in calls.constants:
        if known.dtype == array.dtype and known.shape == array.shape and known.tobytes() == array.tobytes():
            return tensor
    key = ~len(calls.constants)  # negative: variables hash to addresses, which are not
    tensor = Tensor(key, [T.int64(size) for size in array.shape], str(array.dtype))
    calls.constants.append((tensor, array))
    return tensor


def _mark_caches(function: relax.Function, caches: Caches, calls: KernelCalls) -> None:
    calls.caches = {hash(function.params[index]) for index in caches.inputs}
    calls.caches |= {calls.outputs[index].key for index in caches.outputs}
    for stack in caches.stacks:
        for members in (
            tuple(hash(function.params[index]) for index, _ in stack),
            tuple(calls.outputs[index].key for _, index in stack),
        ):
            calls.stacked |= dict.fromkeys(members, members)
    cached = [tensor for tensor in tensors_of([*calls.values.values()]) if tensor.key in calls.caches]
    if any(_is_viewed(tensor, calls) for tensor in cached):
        raise LoweringError(f"the {calls.unit} views a cache in another shape, but its heads are strided")


def _is_viewed(tensor: Tensor, calls: KernelCalls) -> bool:
    """Whether a kernel reads a tensor in another shape."""
    read = [item for _, items in calls.steps for item in tensors_of(items) if item.key == tensor.key]
    return any(item is not tensor for item in read)
