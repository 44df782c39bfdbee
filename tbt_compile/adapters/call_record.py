"""Call records: `prepare` records the example call of a module, from which `lower` exports it again.

A record is one JSON-ready dict per argument: `{"name", "dtype", "shape"}` for a tensor, `{"name", "value"}`
for a plain constant, `{"name", "type"}` for anything else, which compiled modules do not accept. The items of
`*rest` are the arguments "rest[0]", "rest[1]" and so on. A tensor that was passed as an earlier argument too
has its name as "is": a forward may ask whether key is query. One of an exported program has the dimensions
that are dynamic there as "free". One that was passed by position to a module with hooks is "positional". A
constant that was left out has the value of its "default".
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from tbt_compile.dtypes import COMPUTATION, FLOATS, dtype_name
from tbt_compile.errors import LoweringError

Record = list[dict[str, Any]]
_ATTRIBUTE = "tbt_inputs"
_CONSTANTS = (bool, int, float, str, type(None))


def record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    """Record one call of a model.

    Args:
        model: not yet converted: its class still has the original forward.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        One entry per argument, in the order of the parameters.
    """
    signature = inspect.signature(model.forward)
    named = named_arguments(model, args, kwargs)
    first: dict[int, str] = {}
    for name, value in named.items():
        if isinstance(value, Tensor):
            first.setdefault(id(value), name)
    entries = [_describe(name, value, first.get(id(value), name)) for name, value in named.items()]
    if model._forward_pre_hooks or model._forward_hooks:
        for entry in entries[: len(args)]:
            entry["positional"] = True
    free = _declared(model)
    given = [
        {**entry, "free": free[entry["name"]]} if free.get(entry["name"]) else entry for entry in entries
    ]
    left_out = [each for each in signature.parameters.values() if each.name not in named]
    return given + [
        {"name": each.name, "default": each.default} for each in left_out if type(each.default) in _CONSTANTS
    ]


def named_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, in the order of the parameters.

    Args:
        model: as for `record`.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        Those that were given; `as_call` is the inverse.
    """
    signature = inspect.signature(model.forward)
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}[{index}]": each for index, each in enumerate(value)})
        else:
            named.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    return named


def defaults(call: Record) -> dict[str, Any]:
    """The constants that were left out of a call, and the values that its forward gave them."""
    return {argument["name"]: argument["default"] for argument in call if "default" in argument}


def _declared(model: nn.Module) -> dict[str, list[int]]:
    """The dimensions that are dynamic in the program of which a model is the module, by argument."""
    graph = model.graph if isinstance(model, fx.GraphModule) else fx.Graph()
    shapes = {
        str(node.target): getattr(node.meta.get("val"), "shape", ())
        for node in graph.find_nodes(op="placeholder")
    }
    return {
        name: [dim for dim, size in enumerate(shape) if not isinstance(size, int)]
        for name, shape in shapes.items()
    }


def free_dimensions(call: Record) -> dict[str, list[int]]:
    """The dimensions that are dynamic in the exported program that was prepared, by argument."""
    return {argument["name"]: argument["free"] for argument in call if "free" in argument}


def as_call(named: dict[str, Any], model: nn.Module | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of a call.

    What precedes an item of `*args` goes by position, and what did when a program was exported: its module
    takes no other call. So does what did in the recorded call of a model whose hooks see the difference.

    Args:
        named: the arguments by name, in order.
        model: is called.

    Returns:
        The arguments by position, and those by keyword.

    >>> as_call({"x": 1, "rest[0]": 2, "rest[1]": 3, "scale": 4})
    ((1, 2, 3), {'scale': 4})
    """
    items = list(named.items())
    last = max((index for index, (name, _) in enumerate(items) if name.endswith("]")), default=-1)
    exported: Any = getattr(model, "_in_spec", None)
    if exported is None:
        call = [] if model is None else recorded(model) or []
        count = max(last + 1, sum("positional" in argument for argument in call))
    else:
        count = len(pytree.tree_unflatten([None] * exported.num_leaves, exported)[0])
    return tuple(value for _, value in items[:count]), dict(items[count:])


def call_by_name(model: nn.Module, named: dict[str, Any]) -> Any:
    """Call a model with its arguments by name, see `as_call`."""
    args, kwargs = as_call(named, model)
    return model(*args, **kwargs)


def aliases(call: Record) -> dict[str, str]:
    """The arguments that were the same tensor as an earlier one, and that one."""
    return {argument["name"]: argument["is"] for argument in call if "is" in argument}


def restore(model: nn.Module, call: Record | None) -> None:
    """Attach a record to the model, where copies and pickles keep it."""
    setattr(model, _ATTRIBUTE, call)


def recorded(model: nn.Module) -> Record | None:
    """Return the record attached to a model, if any."""
    return getattr(model, _ATTRIBUTE, None)


def in_float32(call: Record | None) -> Record | None:
    """The record of the same call with float tensors in float32."""
    floats = [dtype_name(dtype) for dtype in FLOATS]

    def converted(argument: dict[str, Any]) -> dict[str, Any]:
        return {**argument, "dtype": COMPUTATION} if argument.get("dtype") in floats else argument

    return None if call is None else [converted(argument) for argument in call]


def example_call(model: nn.Module, shared: bool = False) -> dict[str, Any]:
    """Rebuild the keyword arguments of the recorded call, with zeros in the tensors.

    Args:
        model: has a record.
        shared: whether arguments that were one tensor are one again.

    Returns:
        The arguments by name.

    Raises:
        LoweringError: there is no record, or an argument was neither a tensor nor a constant.
    """
    name, call = type(model).__name__, recorded(model)
    if call is None:
        raise LoweringError(
            f"{name} has no record of its inputs: prepare it with this release and example_inputs, then "
            "freeze and save it again"
        )
    check(name, call)
    made = {argument["name"]: _value(argument) for argument in call if "default" not in argument}
    return {**made, **{name: made[first] for name, first in aliases(call).items()}} if shared else made


def check(name: str, call: Record) -> None:
    """Check that a compiled module can take the arguments of a call.

    Raises:
        LoweringError: an argument of the named module is neither a tensor nor a constant.
    """
    odd = next((argument for argument in call if "type" in argument), None)
    if odd is not None:
        raise LoweringError(
            f"argument {odd['name']!r} of {name} is a {odd['type']}: compiled modules take tensors and plain "
            "constants as arguments; wrap the module in one with such a forward"
        )


def _describe(name: str, value: Any, first: str) -> dict[str, Any]:
    if first != name:
        return {**_describe(name, value, name), "is": first}
    if isinstance(value, Tensor):
        return {"name": name, "dtype": dtype_name(value.dtype), "shape": list(value.shape)}
    return {
        "name": name,
        **({"value": value} if isinstance(value, _CONSTANTS) else {"type": type(value).__name__}),
    }


def _value(argument: dict[str, Any]) -> Any:
    if "dtype" not in argument:
        return argument["value"]
    return torch.zeros(argument["shape"], dtype=getattr(torch, argument["dtype"]))
