"""One operator of the kernel benchmark: which codes, which sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.encoding import Encoding
from tbt_compile.errors import TbtError, did_you_mean

_ACTIVATIONS = ("binary", "binary01", "ternary", "ternary012", "int8")
OPERATORS = (*(f"{x}*{w}" for w in ("binary", "ternary") for x in _ACTIVATIONS), "int8*int8")
DEFAULT_OPERATORS = (
    "binary*binary",
    "binary01*binary",
    "ternary*ternary",
    "ternary012*ternary",
    "int8*binary",
    "int8*ternary",
    "int8*int8",
)
DEFAULT_SHAPES = ("128x3072x768", "1x3072x768", "1x768x3072", "1x50265x768")
_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True)
class KernelCase:
    """A linear layer of M rows, N outputs and K inputs, with a bias.

    Attributes:
        operator: "activation*weight", encodings by name.
    """

    operator: str
    m: int
    n: int
    k: int

    @property
    def activation(self) -> Encoding:
        """Codes of the rows."""
        return Encoding(self.operator.split("*")[0])

    @property
    def weight(self) -> Encoding:
        """Codes of the weights."""
        return Encoding(self.operator.split("*")[1])

    def spec(self, isa: Isa) -> LinearSpec:
        """The layer that is timed: centred activations, and a bias."""
        return LinearSpec(self.n, self.k, self.activation, self.weight, True, True, isa)

    @property
    def macs(self) -> int:
        """Multiplications."""
        return self.m * self.n * self.k

    def __str__(self) -> str:
        return f"{self.operator} {self.m}x{self.n}x{self.k}"


def parse_cases(operators: tuple[str, ...], shapes: tuple[str, ...]) -> list[KernelCase]:
    """Every operator with every shape, given as "MxNxK".

    Raises:
        TbtError: an operator is unknown, or a shape cannot be read.
    """
    sizes = []
    for shape in shapes:
        match = _SHAPE.fullmatch(shape)
        if match is None or "0" in match.groups():
            raise TbtError(f"shape {shape!r} is not understood: expected MxNxK such as 128x3072x768")
        sizes.append(tuple(map(int, match.groups())))
    for operator in operators:
        if operator not in OPERATORS:
            raise TbtError(
                f"unknown operator {operator!r}: expected one of {', '.join(OPERATORS)}."
                + did_you_mean(operator, OPERATORS)
            )
    return [KernelCase(operator, *size) for size in sizes for operator in operators]
