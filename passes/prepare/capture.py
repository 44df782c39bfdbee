"""Capture a model as an ATen graph with `torch.export`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from tbt_compile.dtypes import dtype_name
from tbt_compile.errors import CaptureError, did_you_mean
from tbt_compile.modules import evaluation_mode
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.capture_errors import explained
from tbt_compile.passes.export import export_program
from tbt_compile.passes.prepare.aten import aten
from tbt_compile.passes.prepare.number_calls import numbering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tbt_compile.passes.prepare.context import PrepareContext

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def split_example_inputs(model: nn.Module, example_inputs: Any) -> Inputs:
    """Normalise example inputs to (args, kwargs) and check them against the signature of `forward`.

    Example inputs are a tensor, a sequence of positional arguments, or a mapping from argument names.

    Raises:
        CaptureError: an argument is unknown, missing, or given twice.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    else:
        raise CaptureError(
            f"example_inputs is a {type(example_inputs).__name__}: expected a tensor, a tuple of arguments "
            "or a dict from argument names to tensors"
        )
    signature = inspect.signature(model.forward)
    name = type(model).__name__
    parameters = signature.parameters.values()
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        for key in kwargs:
            if key not in signature.parameters:
                known = ", ".join(signature.parameters)
                raise CaptureError(
                    f"example input {key!r} is not an argument of {name}.forward({known})."
                    + did_you_mean(key, signature.parameters)
                )
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"the example inputs do not fit {name}.forward{signature}: {error}; pass every argument that has "
            "no default"
        ) from error
    return args, kwargs


def describe_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Format the inputs of a call for a message: "x: float32 [2, 3], use_cache: False".

    Args:
        model: the module whose `forward` names the inputs.
        args: positional arguments.
        kwargs: keyword arguments.

    Returns:
        The inputs by argument name; tensors as dtype and shape, other values as their repr.
    """
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    parts = []
    for name, value in bound.arguments.items():
        if isinstance(value, Tensor):
            kind = dtype_name(value.dtype)
            parts.append(f"{name}: {kind} {list(value.shape)}")
        else:
            parts.append(f"{name}: {value!r}")
    return ", ".join(parts)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the `with` block in evaluation mode and without gradients; restore the mode of every module."""
    training = [module for module in model.modules() if module.training]
    evaluation_mode(model)
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def without_float16(model: nn.Module) -> Iterator[None]:
    """Run the `with` block with the model's float16 tensors in float32; their old storage comes back.

    Some models clamp float16 activations if any is infinite, a branch on values that cannot be captured.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype is torch.float16]
    stored = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, data in zip(tensors, stored, strict=True):
            tensor.data = data


def _without_float16(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.float16 else value


def export_graph(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    """Export one call of a model to an ATen graph that shares the model's parameters.

    Args:
        model: the model, in evaluation mode.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        The graph module.

    Raises:
        CaptureError: the model does not run on these inputs, or runs but cannot be exported.
    """
    name, inputs = type(model).__name__, describe_inputs(model, args, kwargs)
    try:
        model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(f"{name} does not run on its example inputs ({inputs}): {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = export_program(model, args, kwargs)
            module = program.module(check_guards=False)
    except Exception as error:
        raise CaptureError(
            f"{name} runs on its example inputs ({inputs}) but torch.export cannot capture it: "
            f"{explained(error, model)}"
        ) from error
    assert isinstance(module, fx.GraphModule)
    return module


def drop_assertions(graph: fx.Graph) -> int:
    """Erase the tensor metadata assertions that `torch.export` adds. Returns how many there were."""
    removed = [node for node in graph.nodes if node.target is aten._assert_tensor_metadata.default]
    for node in removed:
        graph.erase_node(node)
    graph.eliminate_dead_code()
    return len(removed)


@dataclass(frozen=True)
class Capture:
    """Export the model to a graph.

    Needs: a model and example inputs that it can be called with. Leaves: `context.graph`, an ATen graph of
    one evaluation-mode call with every softmax and product visible, sharing the model's parameters; the
    model's mode and attention implementation are as before. A float16 model is captured in float32. Raises
    `CaptureError`.
    """

    name: str = "capture"

    def apply(self, context: PrepareContext) -> PassResult:
        model = context.model
        args, kwargs = tree_map(_without_float16, (context.args, context.kwargs))
        with evaluating(model), context.adapter.capturing(model), without_float16(model):
            with suppress(Exception):  # it may fill caches, by products that later runs do not make
                model(*args, **kwargs)
            with numbering(model) as calls:
                context.graph = export_graph(model, args, kwargs)
        context.calls = {name: found for name, found in calls.names.items() if found != ()}
        drop_assertions(context.graph.graph)
        count = len(context.graph.graph.nodes)
        return PassResult(count, f"{count} nodes")
