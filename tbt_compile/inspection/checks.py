"""What `verify` found, as data: one entry per node of a compiled model, and the tokens. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NodeCheck:
    """A node of the compiled graph, over all its calls.

    Attributes:
        unit: the compiled function: "encoder", "first_step", "step" or "forward".
        node: name in the lowered graph.
        layer: dotted name of the module that it belongs to.
        operator: what it computes, such as "tbt::bit_linear".
        on_codes: whether it multiplies, looks up or packs codes, whose sums are exact integers.
        calls: how often it ran.
        elements: of all its results.
        differing: elements whose bits are not those of the reference on the same operands.
        largest: the largest difference of those.
        sqnr: of all its results, in dB, with the reference's own values as operands throughout; None where
            nothing differs.
        codes: codes of its quantized operand, or that it packs.
        flipped: those of them that are others than in the reference's own run.
    """

    unit: str
    node: str
    layer: str
    operator: str
    on_codes: bool
    calls: int = 0
    elements: int = 0
    differing: int = 0
    largest: float = 0.0
    sqnr: float | None = None
    codes: int = 0
    flipped: int = 0

    @property
    def equal(self) -> bool:
        """Whether every bit is that of the reference."""
        return self.differing == 0

    @property
    def flip_rate(self) -> float:
        """The share of codes that differ, 0 to 1."""
        return self.flipped / max(1, self.codes)


@dataclass(frozen=True)
class Verification:
    """Whether a compiled model computes what its frozen model computes; `print` shows it as a table.

    Attributes:
        model: class name.
        target: the CPU of the library that ran.
        nodes: in the order in which they run.
        same_library: whether the library under test returned the bits of the one that shows its nodes.
        tokens: compared tokens, or elements of a module's results.
        equal_tokens: those that are equal to what the given model computes in PyTorch.
        least: the share of tokens that has to be equal.
    """

    model: str
    target: str
    nodes: tuple[NodeCheck, ...]
    same_library: bool
    tokens: int
    equal_tokens: int
    least: float

    @property
    def agreement(self) -> float:
        """The share of equal tokens, 0 to 1."""
        return self.equal_tokens / max(1, self.tokens)

    @property
    def first_divergence(self) -> NodeCheck | None:
        """The first node that computes something else from the same operands; None if there is none."""
        return next((node for node in self.nodes if not node.equal), None)

    @property
    def ok(self) -> bool:
        """Whether every node is equal, the library is the one that was checked, and enough tokens agree."""
        return self.first_divergence is None and self.same_library and self.agreement >= self.least

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, conclusions included."""
        first = self.first_divergence
        return {
            **asdict(self),
            "nodes": [asdict(node) for node in self.nodes],
            "agreement": self.agreement,
            "first_divergence": None if first is None else f"{first.unit}: {first.node}",
            "ok": self.ok,
        }

    def __str__(self) -> str:
        from tbt_compile.inspection.verification_text import verification_text

        return verification_text(self)

    def _repr_html_(self) -> str:
        from tbt_compile.inspection.verification_text import verification_html

        return verification_html(self)
