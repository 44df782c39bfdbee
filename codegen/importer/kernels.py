"""The kernels of one library, memoized by spec: calls and units share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import PrimFunc
from tbt_compile.encoding import Encoding


@dataclass
class Kernels:
    """Builds kernels on demand for one instruction set.

    Attributes:
        isa: instruction set that the kernels are scheduled for.
        built: every kernel built so far, by its name in the compiled library.
    """

    isa: Isa
    built: dict[str, PrimFunc] = field(default_factory=dict)

    def get(self, spec: Any, build: Callable[[Any], PrimFunc]) -> tuple[str, PrimFunc]:
        """The name and the kernel of `build(spec)`, which is called on first use only."""
        name = kernel_name(build.__name__, spec)
        if name not in self.built:
            self.built[name] = build(spec)
        return name, self.built[name]


def kernel_name(kernel: str, spec: Any) -> str:
    """A readable name, unique per kernel and spec: "linear_768_768_ternary_binary_1_1".

    Args:
        kernel: name of the function that builds it.
        spec: a dataclass. Its fields follow in order, nested specs flattened; the instruction set, empty
            strings and None are omitted.
    """
    return "_".join([kernel, *_fields(spec)]).replace(".", "p").replace("-", "m")


def _fields(spec: Any) -> list[str]:
    fields = []
    for name, value in vars(spec).items():
        if isinstance(value, Encoding):
            fields.append(value.value)
        elif is_dataclass(value) and name != "isa":
            fields += _fields(value)
        elif name != "isa" and value not in ("", None):
            fields.append(str(int(value) if isinstance(value, bool) else value))
    return fields
