"""Kernels compiled for an AArch64 CPU into one library, and run on a machine with that CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arm.machine import Machine

from tbt_compile.codegen.library.library import compile_functions
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tvm_api import PrimFunc
from tbt_compile.encoding import Encoding

EMULATED = {"cortex-a72": "cortex-a72", "cortex-a76": "max"}
"""The CPUs to compile for, and QEMU's name of the one that their code runs on."""

B, T, B01, T012 = Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012
I8, U8 = Encoding.INT8, Encoding.UINT8
Pair = tuple[Encoding, Encoding]
Builder = Callable[[Any], PrimFunc]


class Kernels:
    """A library and the machine that it runs on.

    Args:
        cpu: what to compile for.
        machine: one that can run it.
        tested: every kernel as its builder and spec; one library is much quicker to make than many.

    Attributes:
        isa: the CPU's schedule parameters.
        library: the file.
    """

    def __init__(self, cpu: str, machine: Machine, tested: Iterable[tuple[Builder, Any]]) -> None:
        target = parse_target(cpu)
        self.isa = target.isa
        self._machine = machine
        self._names = {key: f"kernel{index}" for index, key in enumerate(tested)}
        functions = {name: builder(spec) for (builder, spec), name in self._names.items()}
        self.library: Path = compile_functions(functions, target).export(machine.file(".so"))

    def call(
        self,
        builder: Builder,
        spec: Any,
        inputs: Sequence[Any],
        shape: Sequence[int],
        dtype: Any,
        past: np.ndarray | None = None,
    ) -> np.ndarray:
        """Run a kernel on the machine; returns its output, which begins with `past` if that is given."""
        return self._machine.call(self.library, self._names[builder, spec], inputs, shape, dtype, past)


def named(value: Any) -> str | None:
    """An encoding, or a pair of them, as a part of the name of a test."""
    if isinstance(value, Encoding):
        return value.value
    if isinstance(value, tuple) and all(isinstance(one, Encoding) for one in value):
        return "-".join(one.value for one in value)
    return None
