"""Trace an attention function with `torch.fx` and replace its two products by quantized ones.

The exported graph is specialised to the example inputs. The eager model needs code for any mask, dropout and
sequence length: the model's attention function, traced symbolically once per set of inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.quantizers import quantized_matmul

OPERANDS = ("query", "key", "probabilities", "value")

_MATMUL_FUNCTIONS = frozenset({torch.matmul, torch.bmm, operator.matmul})
_MATMUL_METHODS = frozenset({"matmul", "bmm"})
_SOFTMAX_FUNCTIONS = frozenset({F.softmax, torch.softmax})
_TRANSPARENT_MODULES = (nn.Dropout, nn.Identity, nn.Softmax)


class _CallTracer(fx.Tracer):
    """Traces one call of a function whose first argument is the root module; submodules are leaves."""

    def __init__(
        self,
        function: Callable[..., Any],
        module: nn.Module,
        tensors: Iterable[str],
        constants: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._function, self._module = function, module
        self._tensors, self._constants = tuple(tensors), dict(constants)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        # Trace the given function instead of the root's `forward`.
        del root_fn, is_module, concrete_args
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self._tensors]

        def call(*values: Any) -> Any:
            named = dict(zip(self._tensors, values, strict=True))
            return self._function(self._module, **named, **self._constants)

        return call, proxies


def trace_call(
    function: Callable[..., Any], module: nn.Module, tensors: Iterable[str], constants: Mapping[str, Any]
) -> fx.Graph:
    """Trace `function(module, **tensors, **constants)`.

    Args:
        function: the attention function.
        module: its first argument, and the root of the trace.
        tensors: names of the arguments that are tensors.
        constants: the other arguments by name; the trace is specialised to them.

    Returns:
        The graph, with one placeholder per tensor name.

    Raises:
        CaptureError: the function does something with a tensor that depends on its values or shape.
    """
    tracer = _CallTracer(function, module, tensors, constants)
    try:
        return tracer.trace(module)
    except (TypeError, NameError, RuntimeError, ValueError, AttributeError) as error:
        raise CaptureError(
            f"the attention of {type(module).__name__} cannot be traced: {error}. Its forward must not "
            "branch on values or sizes of tensors; exclude the module in the recipe to keep it in fp32"
        ) from error


def quantize_products(
    graph: fx.Graph,
    module: nn.Module,
    prefix: str,
    rank: int | None = None,
    without_softmax: bool = False,
) -> None:
    """Replace the two products around the softmax of a traced graph by quantized ones, in place.

    Args:
        graph: the traced attention function.
        module: the root of the trace.
        prefix: of the quantizers `<prefix>query`, `<prefix>key`, `<prefix>probabilities`, `<prefix>value`.
        rank: number of dimensions of the operands; None if unknown.
        without_softmax: whether the second product takes the masked scores; softmax and dropout are bypassed.

    Raises:
        PlanError: the graph has no softmax between two products, or more than one.
    """
    softmaxes = [node for node in graph.nodes if _is_softmax(node, module)]
    if len(softmaxes) != 1:
        raise PlanError(
            f"the attention of {type(module).__name__} has {len(softmaxes)} softmax calls, expected one: put "
            "each attention into a separate module"
        )
    softmax = softmaxes[0]
    scores = _nearest_product(softmax.all_input_nodes, module, upwards=True)
    output = _nearest_product(softmax.users, module, upwards=False)
    if scores is None or output is None:
        raise PlanError(f"the softmax of {type(module).__name__} does not stand between two matmuls")
    query, key = _factors(scores)
    operands = query, untranspose(graph, scores, key, rank)
    replace_product(graph, scores, *operands, prefix, OPERANDS[:2], rank)
    probabilities, value = _factors(output)
    if without_softmax:
        probabilities = softmax.all_input_nodes[0]
    replace_product(graph, output, probabilities, value, prefix, OPERANDS[2:], rank)
    if isinstance(key, fx.Node) and not key.users:
        graph.erase_node(key)
    graph.lint()


def replace_product(
    graph: fx.Graph,
    node: fx.Node,
    left: Any,
    right: Any,
    prefix: str,
    names: tuple[str, ...],
    rank: int | None = 4,
) -> None:
    """Replace a product by `quantized_matmul(<prefix><names[0]>(left), <prefix><names[1]>(right))`.

    Args:
        graph: the graph that holds the product.
        node: the product.
        left: left operand, [.., M, K].
        right: right operand, [.., K, N]; for the key of QK^T its transpose, [.., N, K].
        prefix: of the site's quantizers.
        names: names of the left and right operand.
        rank: number of dimensions of the operands; None if unknown. Those without heads get one head.
    """
    with graph.inserting_before(node):
        whole = left
        if rank is None:
            left, right = (graph.call_function(with_heads, (operand,)) for operand in (left, right))
        a = graph.call_module(prefix + names[0], (left,))
        b = graph.call_module(prefix + names[1], (right,))
        product = graph.call_function(quantized_matmul, (a, b, names[1] == "key"))
        if rank is None:
            product = graph.call_function(without_heads, (product, whole))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def with_heads(operand: Tensor) -> Tensor:
    """The operand of a product as `[B, 1, T, D]` if it is `[B, T, D]`: compiled attention has heads."""
    return operand.unsqueeze(1) if operand.dim() == 3 else operand


def without_heads(product: Tensor, operand: Tensor) -> Tensor:
    """The product of operands from `with_heads`, with as many dimensions as the left one had."""
    return product.squeeze(1) if operand.dim() == 3 else product


def untranspose(graph: fx.Graph, before: fx.Node, key: Any, rank: int | None) -> Any:
    """The key with features last, [.., T, D].

    Args:
        graph: the graph that holds the product.
        before: the product; a new node is inserted before it.
        key: the right operand of QK^T, [.., D, T].
        rank: number of dimensions of the key; None if unknown.

    Returns:
        The source of the transpose that produced `key`; without one, a new transpose of `key`.
    """
    source = _before_transpose(key, rank) if isinstance(key, fx.Node) else None
    if source is not None:
        return source
    with graph.inserting_before(before):
        return graph.call_function(torch.transpose, (key, -2, -1))


def _before_transpose(node: fx.Node, rank: int | None) -> Any | None:
    """The operand of a transpose of the last two dimensions; None for any other node."""
    named = node.op == "call_method" and node.target == "transpose"
    function = node.op == "call_function" and node.target in (torch.transpose, torch.ops.aten.transpose.int)
    if not (named or function) or len(node.args) != 3:
        return None
    source, *dims = node.args  # torch methods and functions have no schema, but ATen's operand order
    if not all(isinstance(dim, int) for dim in dims):
        return None
    last_two = {-2, -1} if rank is None else {-2, -1, rank - 2, rank - 1}
    distinct = {dim if dim < 0 or rank is None else dim - rank for dim in dims}  # type: ignore[operator]
    return source if len(distinct) == 2 and set(dims) <= last_two else None


def _is_softmax(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.Softmax)
    return node.target in _SOFTMAX_FUNCTIONS or (node.op == "call_method" and node.target == "softmax")


def _is_product(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _MATMUL_FUNCTIONS
    return node.op == "call_method" and node.target in _MATMUL_METHODS


def _factors(product: fx.Node) -> tuple[Any, Any]:
    """Both operands of a product."""
    left, right, *_ = product.args  # torch methods and functions have no schema
    return left, right


def _nearest_product(start: Iterable[fx.Node], module: nn.Module, *, upwards: bool) -> fx.Node | None:
    """The nearest matmul along operands or users; the search stops at layers with parameters."""
    queue, seen = list(start), set()
    while queue:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if _is_product(node):
            return node
        if node.op == "call_module" and not isinstance(
            module.get_submodule(str(node.target)), _TRANSPARENT_MODULES
        ):
            continue
        queue += node.all_input_nodes if upwards else list(node.users)
    return None
