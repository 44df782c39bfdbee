"""One case of the kernel benchmark: the encodings and sizes of a linear layer."""

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
    """A linear layer with a bias.

    Attributes:
        operator: "activation*weight", encodings by name.
        m, n, k: rows, outputs and inputs.
    """

    operator: str
    m: int
    n: int
    k: int

    @property
    def activation(self) -> Encoding:
        """The encoding of the activations."""
        return Encoding(self.operator.split("*")[0])

    @property
    def weight(self) -> Encoding:
        """The encoding of the weights."""
        return Encoding(self.operator.split("*")[1])

    def spec(self, isa: Isa) -> LinearSpec:
        """The timed layer, with centred activations and a bias."""
        return LinearSpec(self.n, self.k, self.activation, self.weight, True, True, isa)

    @property
    def macs(self) -> int:
        """The multiply-accumulate operations of a call."""
        return self.m * self.n * self.k

    def __str__(self) -> str:
        return f"{self.operator} {self.m}x{self.n}x{self.k}"


def parse_cases(operators: tuple[str, ...], shapes: tuple[str, ...]) -> list[KernelCase]:
    """All combinations of the operators and shapes ("MxNxK").

    Raises:
        TbtError: an operator is unknown, or a shape is malformed.
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
