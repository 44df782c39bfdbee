"""`torch.export` with the settings that all captures share: non-strict, no gradients, no stack traces."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules import transformer

from tbt_compile.passes.inline_contexts import inline_contexts

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
    with torch.no_grad(), _tracing():
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    inline_contexts(program)
    return program


@contextmanager
def _tracing() -> Iterator[None]:
    """Halve the export time, and keep `nn.Transformer` from looking at the values of its mask.

    The graph only loses the Python stacks in the meta of its nodes. With symbolic sizes a hit in the fake
    tensor cache costs more than recomputing the result. The garbage collector would repeatedly walk the
    millions of live objects of the traced graph and free none.
    """
    with _TRACING:
        collecting, silent = gc.isenabled(), torch.fx.config.do_not_emit_stack_traces
        detect = transformer._detect_is_causal_mask
        transformer._detect_is_causal_mask = _not_looking
        gc.disable()
        torch.fx.config.do_not_emit_stack_traces = True
        try:
            with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
                yield
        finally:
            transformer._detect_is_causal_mask = detect
            torch.fx.config.do_not_emit_stack_traces = silent
            if collecting:
                gc.enable()


def _not_looking(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether `nn.Transformer` may take a mask for the causal one: if it is told so.

    PyTorch compares the values of the mask, a branch that cannot be captured, to skip work. Added, the mask
    gives the same result.
    """
    del mask, size
    return bool(is_causal)


def why(error: Exception) -> str:
    """One sentence for a failed export; torch's own messages are pages long."""
    text = str(error).strip()
    if "data-dependent" not in text:
        return text.partition("\n")[0] or type(error).__name__
    place = re.findall(r'File "([^"]+)", line (\d+), in \w+\n *(.+)', text)
    where = f" ({place[-1][2].strip()!r}, {Path(place[-1][0]).name}:{place[-1][1]})" if place else ""
    return (
        f"it branches on the values of a tensor{where}, or has a size that depends on them, which no graph "
        "can hold: compute both sides and choose with torch.where, or pass the decision as an argument"
    )
