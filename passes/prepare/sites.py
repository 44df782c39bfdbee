"""The sites of a captured graph: operations whose operands can be quantized."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import fx

from tbt_compile.modules.interception import split_call


class SiteKind(Enum):
    """What a site computes."""

    LINEAR = "linear"
    OUTPUT_PROJECTION = "output_projection"
    EMBEDDING = "embedding"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"


@dataclass(frozen=True)
class CallSite:
    """A call of a product function in the forward of a module.

    Attributes:
        number: its number among the product calls of the forward.
        function: the name of the function.
        reverse: whether the operands are in the other order: the weight first, or the key, or the value.
        parameters: names of the parameters that its weight is computed from.
        frees: those that only quantized calls read; once these are frozen, nothing needs the floats.
    """

    number: int
    function: str
    reverse: bool = False
    parameters: tuple[str, ...] = ()
    frees: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CallSite:
        """The inverse of `dataclasses.asdict`, also after JSON."""
        return cls(**{**values, "parameters": tuple(values["parameters"]), "frees": tuple(values["frees"])})


@dataclass(frozen=True)
class Call:
    """One call of a site in the graph.

    Attributes:
        node: the operation; for attention the product QK^T.
        operands: the quantizable operands by name: "input" and "weight" of a linear layer or a convolution,
            "weight" of an embedding, or "query", "key", "probabilities" and "value". The key is the right
            operand of QK^T, [.., D, T]. The probabilities of a fused attention have no node.
        output: the product PV for attention; `node` for the other kinds.
    """

    node: fx.Node
    operands: dict[str, fx.Node | None]
    output: fx.Node


@dataclass
class FoundSite:
    """A module with quantizable operands.

    Attributes:
        obstacle: why it cannot be quantized, or None. The plan rejects the model unless the recipe excludes
            the module.
        keep: why it stays in full precision by design, or None.
        call_sites: for a site that is a call of a function, that call; two for the products of an attention.
        shape: rows and columns of the weight of a call.
        readers: for each parameter that the weight of a call is computed from, the nodes that read it.
        traceable: whether an attention consists of two matmuls, which the tracer of attention code can find.
    """

    kind: SiteKind
    fqn: str
    calls: list[Call] = field(default_factory=list)
    obstacle: str | None = None
    keep: str | None = None
    call_sites: tuple[CallSite, ...] = ()
    shape: tuple[int, int] | None = None
    readers: dict[str, frozenset[str]] = field(default_factory=dict)
    traceable: bool = False

    @property
    def name(self) -> str:
        """How the site is called in plans and recipes, see `site_name`."""
        return site_name(self.fqn, self.readers if self.call_sites else ())

    def __str__(self) -> str:
        calls = ", ".join(call.node.name for call in self.calls)
        note = self.obstacle or self.keep
        return f"{self.kind.value} {self.fqn or '(model)'}: {calls}" + (f" [{note}]" if note else "")


def site_name(fqn: str, parameters: Collection[str]) -> str:
    """The name of a site: of a call with one parameter of another module, the name of that module.

    All calls of an exported program are made by one forward; their parameters have the names of the layers.

    >>> site_name("tbt_calls.3", ["encoder.fc1.weight"]), site_name("block.tbt_calls.0", ["block.matrix"])
    ('encoder.fc1', 'block.tbt_calls.0')
    """
    owners = {parameter.rpartition(".")[0] for parameter in parameters}
    return fqn if len(parameters) != 1 or owners & {caller_of(fqn), ""} else owners.pop()


def caller_of(fqn: str) -> str:
    """The name of a site without that of its call.

    >>> caller_of("encoder.attn.tbt_calls.2"), caller_of("encoder.fc1")
    ('encoder.attn', 'encoder.fc1')
    """
    call = split_call(fqn)
    return fqn if call is None else call[0]
