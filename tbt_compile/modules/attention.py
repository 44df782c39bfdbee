"""The quantized attention core: four quantizers inserted into the model's own attention code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from tbt_compile.errors import CaptureError
from tbt_compile.passes.prepare.trace_attention import OPERANDS, quantize_products, trace_call
from tbt_compile.quantizers import ActivationQuantizer

CHILD = "tbt_attention"
_CONSTANTS = (bool, int, float, str, type(None))


class QuantizedAttention(nn.Module):
    """The child `tbt_attention` of an attention module: quantizes q, k, p and v.

    It runs its parent's attention code with both products quantized. `torch.fx` traces that code once per
    kind of call (with or without a mask, training or eval, dropout); the trace is cached as a Python
    function that looks up quantizers and parameters at every call. Traces are not pickled or copied: a copy
    traces again.

    To transform the traced code further (packed operands, a cache of codes), set `rewrite` to a function
    that changes the quantized `fx.Graph` in place, then call `forget()`. In the graph, the modules
    `tbt_attention.query` (`key`, `probabilities`, `value`) return `QuantTensor`s, which `quantized_matmul`
    takes. `graph_of` returns the graph for inspection.

    Attributes:
        rank: number of dimensions of q, k and v if the calling convention fixes it, else None.
        without_softmax: whether `probabilities` quantizes the masked scores (Bi-Attention).
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
        """Return `function(parent, **inputs)` with both products quantized.

        Args:
            function: the parent's attention code; takes the module first.
            parent: the attention module.
            inputs: tensors and constants by parameter name.

        Returns:
            What `function` returns.

        Raises:
            CaptureError: an input is neither a tensor nor a plain constant, or the code cannot be traced.
        """
        tensors, constants = split_inputs(inputs, parent)
        key = (function, parent.training, tuple(tensors), tuple(constants.items()))
        _trace_once(self, parent, *key)
        return self._compiled[key](parent, *tensors.values())

    def graph_of(
        self, function: Callable[..., Any], parent: nn.Module, inputs: Mapping[str, Any]
    ) -> fx.Graph:
        """Trace the graph that `forward` runs for these inputs.

        Args:
            function: as for `forward`.
            parent: as for `forward`; the root module of the graph.
            inputs: as for `forward`.

        Returns:
            A graph with one placeholder per tensor of `inputs`.

        Raises:
            CaptureError: as for `forward`.
        """
        tensors, constants = split_inputs(inputs, parent)
        return self.trace(function, parent, tuple(tensors), constants)

    def trace(
        self,
        function: Callable[..., Any],
        parent: nn.Module,
        names: tuple[str, ...],
        constants: dict[str, Any],
    ) -> fx.Graph:
        """Trace the graph of a kind of call.

        Args:
            function: as for `forward`.
            parent: as for `forward`.
            names: of the inputs that are tensors.
            constants: the other inputs.

        Returns:
            A graph with one placeholder per name.

        Raises:
            CaptureError: the code cannot be traced.
        """
        graph = trace_call(function, parent, names, constants)
        quantize_products(graph, parent, f"{CHILD}.", self.rank, self.without_softmax)
        if self.rewrite is not None:
            self.rewrite(graph)
            graph.lint()
        return graph

    def forget(self) -> None:
        """Drop all traces, after a change to `rewrite`."""
        self._compiled.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _trace_once(
    core: QuantizedAttention,
    parent: nn.Module,
    function: Callable[..., Any],
    training: bool,
    names: tuple[str, ...],
    constants: tuple[tuple[str, Any], ...],
) -> None:
    """Fill the core's cache for a kind of call. torch.compile runs this, instead of tracing the tracer."""
    key = (function, training, names, constants)
    if key not in core._compiled:
        core._compiled[key] = _compile(core.trace(function, parent, names, dict(constants)))


class QuantizedBlock:
    """Mixin that goes before an attention class and runs its `forward` through the core `tbt_attention`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the original class with both attention products quantized."""
        function = original_forward(type(self))
        core = self.__dict__["_modules"][CHILD]
        return core(function, self, named_inputs(function, self, args, kwargs))


def original_forward(kind: type) -> Callable[..., Any]:
    """Return the unbound `forward` that `QuantizedBlock` overrides in the class `kind`."""
    following = kind.__mro__[kind.__mro__.index(QuantizedBlock) + 1 :]
    return next(base.__dict__["forward"] for base in following if "forward" in base.__dict__)


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def named_inputs(
    function: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by parameter name, without defaults.

    Args:
        function: an unbound method.
        module: its first argument; not part of the result.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        The arguments that the caller passed.

    Raises:
        CaptureError: the function takes `*args` and the caller used them.
    """
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
    """Split inputs into tensors and plain constants.

    Raises:
        CaptureError: an input is neither.
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
    """Compile a graph to `f(parent, *tensors)`, which looks up modules and parameters at every call."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<quantized attention>", "exec"), scope)
    return scope["forward"]
