"""Run the compiler's float kernels on torch tensors, so that eager code gets the bits of compiled code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tbt_compile.storage.aligned import ALIGNMENT


def run(build: Callable[[Any], Any], spec: Any, inputs: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Run the kernel `build(spec)`, which is compiled for this machine on first use.

    Args:
        build: builds the kernel; its parameters are `inputs`, then the result.
        spec: what the kernel is specialised for.
        inputs: float32, on the CPU.
        shape: of the result.

    Returns:
        float32.
    """
    output = torch.empty(tuple(shape))
    if output.numel():
        _kernel(build, spec)(*map(_argument, inputs), _argument(output))
    return output


@functools.cache
def isa() -> Any:
    """The instruction set of this machine."""
    from tbt_compile.codegen.target.host import host_target

    return host_target().isa


def any_size() -> Any:
    """The spec of kernels that are specialised for this machine only."""
    from tbt_compile.codegen.kernels.float_ops.spec import AnySize

    return AnySize(isa())


@functools.cache
def _kernel(build: Callable[[Any], Any], spec: Any) -> Callable[..., None]:
    from tbt_compile.codegen.target.host import host_target
    from tbt_compile.codegen.tools.standalone import compile_kernel

    return compile_kernel(build(spec), host_target())


def _argument(x: Tensor) -> Any:
    from tbt_compile.codegen.tvm_api import tvm

    x = x.detach().contiguous()
    if x.data_ptr() % ALIGNMENT:
        x = x.clone()
    return tvm.runtime.from_dlpack(x)
