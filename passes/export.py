"""`torch.export` with the settings that all captures share: non-strict, no gradients, no stack traces."""

from __future__ import annotations

import copy
import gc
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.modules import transformer

from tbt_compile.passes.constant_sizes import constant_sizes
from tbt_compile.passes.free_sizes import free_sizes
from tbt_compile.passes.inline_contexts import inline_contexts
from tbt_compile.passes.lazy_code import recompile_later
from tbt_compile.passes.mask_sizes import equal_mask_sizes
from tbt_compile.passes.squeezes import keep_free_dimensions
from tbt_compile.passes.strided_views import flatten_strided

_TALKATIVE = ("torch.fx.experimental.symbolic_shapes", "torch._export.non_strict_utils")
_TRACING = threading.RLock()
"""Held while settings of the whole process are changed."""


def export_program(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """Export one call of `module` to an ATen graph that shares the module's parameters.

    Args:
        module: the module, already in the mode (training or evaluation) to capture.
        args, kwargs: example inputs of its `forward`.
        dynamic_shapes: as for `torch.export.export`; by default every size is static.

    Returns:
        The exported program.

    Raises:
        Exception: any that `torch.export.export` raises for a module that it cannot capture.
    """
    with (
        torch.no_grad(),
        unchanged_attributes(module),
        _tracing(),
        free_sizes(module),
        _quiet(),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "The tensor attribute")  # assigned; that is undone
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    inline_contexts(program)
    equal_mask_sizes(program)
    constant_sizes(program)
    keep_free_dimensions(program)
    flatten_strided(program)
    return program


class EmptyTensorError(Exception):
    """A call of a graph has an empty tensor where the graph expects elements."""


def run_program(program: ExportedProgram, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    """Run the graph of a program on its user inputs, whatever their sizes; returns all that it outputs.

    Raises:
        EmptyTensorError: a slice is empty at these sizes, and not at those that the graph was captured for.
    """
    stored, given = {**program.state_dict, **program.constants}, iter(inputs)
    arguments = [
        next(given) if spec.kind is InputKind.USER_INPUT else stored[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    with torch.no_grad():
        return tuple(_Checked(program.graph_module).run(*arguments))


class _Checked(fx.Interpreter):
    """Runs a graph, and compares which results are empty."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.numel() == 0 and 0 not in n.meta["val"].shape:
            raise EmptyTensorError(n.name)
        return result


@contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Undo what forwards in the `with` block assign to attributes; a capture would leave fake tensors."""
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    contents = [
        (value, copy.copy(value))
        for _, attributes, _ in kept
        for name, value in attributes.items()
        if type(value) in (list, dict, set) and not name.startswith("_")
    ]
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for value, before in contents:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)


@contextmanager
def _tracing() -> Iterator[None]:
    """Halve the export time, and keep `nn.Transformer` from looking at the values of its mask.

    The graph only loses the Python stacks in the meta of its nodes. With symbolic sizes a hit in the fake
    tensor cache costs more than recomputing the result. The garbage collector would repeatedly walk the
    millions of live objects of the traced graph and free none. Each of PyTorch's passes would generate the
    code of the graph.
    """
    with _TRACING:
        collecting, silent = gc.isenabled(), torch.fx.config.do_not_emit_stack_traces
        detect = transformer._detect_is_causal_mask
        recompile, fx.GraphModule.recompile = fx.GraphModule.recompile, recompile_later  # type: ignore
        transformer._detect_is_causal_mask = _not_looking
        gc.disable()
        torch.fx.config.do_not_emit_stack_traces = True
        try:
            with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
                yield
        finally:
            fx.GraphModule.recompile = recompile  # type: ignore[method-assign]
            transformer._detect_is_causal_mask = detect
            torch.fx.config.do_not_emit_stack_traces = silent
            if collecting:
                gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what PyTorch logs and prints of captures that fail or fix a size: this package says it shortly."""
    logs, printed = [logging.getLogger(name) for name in _TALKATIVE], io.StringIO()
    for log in logs:
        log.addFilter(_is_detail)
    try:
        with redirect_stderr(printed):
            yield
        sys.stderr.write(printed.getvalue())
    finally:
        for log in logs:
            log.removeFilter(_is_detail)


def _is_detail(record: logging.LogRecord) -> bool:
    """Whether a record was asked for, by TORCH_LOGS."""
    return record.levelno < logging.WARNING


def _not_looking(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether `nn.Transformer` may take a mask for the causal one: if it is told so.

    PyTorch compares the values of the mask, a branch that cannot be captured, to skip work. Added, the mask
    gives the same result.
    """
    del mask, size
    return bool(is_causal)
