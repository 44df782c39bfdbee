"""The quantized attention core: four quantizers and the model's own attention code around them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from tbt_compile.errors import CaptureError
from tbt_compile.passes.prepare.trace_attention import OPERANDS, quantize_products, trace_call
from tbt_compile.quantizers import ActivationQuantizer

CHILD = "tbt_attention"
_CONSTANTS = (bool, int, float, str, type(None))


class QuantizedAttention(nn.Module):
    """Child `tbt_attention` of an attention module: the quantizers of q, k, p and v.

    It runs the attention code of its parent with both products quantized. The code is traced by `torch.fx`
    the first time that a pattern of inputs is met (with or without a mask, training or not, dropout) and kept
    as a Python function that looks quantizers and parameters up at every call. Nothing traced is pickled or
    copied: a copy traces again.

    Another transformation of the same code (packed operands, a cache of codes) sets `rewrite` to a function
    that takes the quantized `fx.Graph` and changes it in place, and calls `forget()`; in the graph,
    `call_module tbt_attention.query` (`key`, `probabilities`, `value`) give `QuantTensor`s to
    `quantized_matmul`, and `graph_of` returns one for inspection.

    Attributes:
        rank: number of dimensions of q, k and v, where the calling convention fixes it.
        without_softmax: the quantizer `probabilities` gets the masked scores (Bi-Attention).
    """

    query: ActivationQuantizer
    key: ActivationQuantizer
    probabilities: ActivationQuantizer
    value: ActivationQuantizer

    def __init__(
        self, quantizers: Mapping[str, nn.Module], rank: int | None = None, without_softmax: bool = False
    ) -> None:
        super().__init__()
        for name in OPERANDS:
            self.add_module(name, quantizers[name])
        self.rank, self.without_softmax = rank, without_softmax
        self.rewrite: Callable[[fx.Graph], None] | None = None
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def forward(self, function: Callable[..., Any], parent: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """What `function(parent, **inputs)` returns, with both products quantized.

        Raises:
            CaptureError: an input is neither a tensor nor a plain constant, or the code cannot be traced.
        """
        tensors, constants = split_inputs(inputs, parent)
        key = (function, parent.training, tuple(tensors), tuple(constants.items()))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = _compile(self.graph_of(function, parent, inputs))
            self._compiled[key] = compiled
        return compiled(parent, *tensors.values())

    def graph_of(
        self, function: Callable[..., Any], parent: nn.Module, inputs: Mapping[str, Any]
    ) -> fx.Graph:
        """The graph that these inputs run: root is `parent`, one placeholder per tensor."""
        tensors, constants = split_inputs(inputs, parent)
        graph = trace_call(function, parent, tensors, constants)
        quantize_products(graph, parent, f"{CHILD}.", self.rank, self.without_softmax)
        if self.rewrite is not None:
            self.rewrite(graph)
            graph.lint()
        return graph

    def forget(self) -> None:
        """Drop everything traced, after a change to `rewrite`."""
        self._compiled.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}


class QuantizedBlock:
    """Mixed in before a plain attention class: its `forward` runs through the core `tbt_attention`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of the original class with both attention products quantized."""
        function = original_forward(type(self))
        core = self.__dict__["_modules"][CHILD]
        return core(function, self, named_inputs(function, self, args, kwargs))


def original_forward(kind: type) -> Callable[..., Any]:
    """The `forward` that `QuantizedBlock` stands in front of, unbound."""
    following = kind.__mro__[kind.__mro__.index(QuantizedBlock) + 1 :]
    return next(base.__dict__["forward"] for base in following if "forward" in base.__dict__)


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def named_inputs(
    function: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The inputs of a call by parameter name; what the caller leaves out is left out."""
    signature = _signature(function)
    named: dict[str, Any] = {}
    for name, value in list(signature.bind(module, *args, **kwargs).arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise CaptureError(
                f"the forward of {type(module).__name__} takes *{name}: attention needs named arguments"
            )
        named.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    return named


def split_inputs(inputs: Mapping[str, Any], parent: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inputs as (tensors, constants).

    Raises:
        CaptureError: one is neither.
    """
    tensors: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, _CONSTANTS):
            constants[name] = value
        else:
            raise CaptureError(
                f"argument {name!r} of the attention {type(parent).__name__} is a {type(value).__name__}: "
                "expected a tensor or a plain constant"
            )
    return tensors, constants


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    """A function `f(parent, *tensors)` from a graph; modules and parameters are looked up at every call."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<quantized attention>", "exec"), scope)
    return scope["forward"]
