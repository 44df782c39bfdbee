"""Tracing of one attention core at torch level, and insertion of quantizers around its two products.

The exported graph says where an attention is; the eager model needs Python code that can run it with any
mask, dropout and sequence length. That code is the model's own attention function, traced once per pattern
of inputs by `torch.fx`, with its two products replaced by quantized ones.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.quantizers import quantized_matmul

OPERANDS = ("query", "key", "probabilities", "value")

_MATMUL_FUNCTIONS = frozenset({torch.matmul, torch.bmm, operator.matmul})
_MATMUL_METHODS = frozenset({"matmul", "bmm"})
_SOFTMAX_FUNCTIONS = frozenset({F.softmax, torch.softmax})
_TRANSPARENT_MODULES = (nn.Dropout, nn.Identity, nn.Softmax)


class _CallTracer(fx.Tracer):
    """Traces one call of a function whose first argument is the root module; children stay calls."""

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
        # The root is traced through the given function, not through its own forward.
        del root_fn, is_module, concrete_args
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self._tensors]

        def call(*values: Any) -> Any:
            named = dict(zip(self._tensors, values, strict=True))
            return self._function(self._module, **named, **self._constants)

        return call, proxies


def trace_call(
    function: Callable[..., Any], module: nn.Module, tensors: Iterable[str], constants: Mapping[str, Any]
) -> fx.Graph:
    """The graph of `function(module, **tensors, **constants)`, with one placeholder per tensor name.

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
    """Replace the two products around the softmax of `graph` by quantized ones, in place.

    The quantizers are called as `<prefix>query`, `<prefix>key`, `<prefix>probabilities` and `<prefix>value`.
    `rank` is the number of dimensions of the operands, where it is known. With `without_softmax` the second
    product takes the masked scores instead of probabilities; softmax and dropout are passed by.

    Raises:
        PlanError: the graph has no softmax between two products, or more than one.
    """
    softmaxes = [node for node in graph.nodes if _is_softmax(node, module)]
    if len(softmaxes) != 1:
        raise PlanError(
            f"the attention of {type(module).__name__} has {len(softmaxes)} softmax calls, expected one: put "
            "each attention into a module of its own"
        )
    softmax = softmaxes[0]
    scores = _nearest_product(softmax.all_input_nodes, module, upwards=True)
    output = _nearest_product(softmax.users, module, upwards=False)
    if scores is None or output is None:
        raise PlanError(f"the softmax of {type(module).__name__} does not stand between two matmuls")
    query, key = _factors(scores)
    replace_product(graph, scores, query, untranspose(graph, scores, key, rank), prefix, OPERANDS[:2])
    probabilities, value = _factors(output)
    if without_softmax:
        probabilities = softmax.all_input_nodes[0]
    replace_product(graph, output, probabilities, value, prefix, OPERANDS[2:])
    if isinstance(key, fx.Node) and not key.users:
        graph.erase_node(key)
    graph.lint()


def replace_product(
    graph: fx.Graph, node: fx.Node, left: Any, right: Any, prefix: str, names: tuple[str, ...]
) -> None:
    """Put `quantized_matmul(<prefix><names[0]>(left), <prefix><names[1]>(right))` in the place of `node`."""
    with graph.inserting_before(node):
        a = graph.call_module(prefix + names[0], (left,))
        b = graph.call_module(prefix + names[1], (right,))
        product = graph.call_function(quantized_matmul, (a, b, names[1] == "key"))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def untranspose(graph: fx.Graph, before: fx.Node, key: Any, rank: int | None) -> Any:
    """The key with its features last, [.., T, D], from the [.., D, T] that QK^T takes.

    A key that was transposed just for the product is taken before that; any other is transposed back.
    """
    source = _before_transpose(key, rank) if isinstance(key, fx.Node) else None
    if source is not None:
        return source
    with graph.inserting_before(before):
        return graph.call_function(torch.transpose, (key, -2, -1))


def _before_transpose(node: fx.Node, rank: int | None) -> Any | None:
    """The tensor whose last two dimensions a node swaps, if it does that."""
    named = node.op == "call_method" and node.target == "transpose"
    function = node.op == "call_function" and node.target in (torch.transpose, torch.ops.aten.transpose.int)
    if not (named or function) or len(node.args) != 3:
        return None
    source, *dims = node.args  # methods and functions of torch have no schema, but the order of ATen
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
    left, right, *_ = product.args  # methods and functions of torch have no schema
    return left, right


def _nearest_product(start: Iterable[fx.Node], module: nn.Module, *, upwards: bool) -> fx.Node | None:
    """The first matmul met along operands or users; layers with parameters are not passed through."""
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
