"""The plan of one site: its operands and their encodings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from tbt_compile.encoding import Encoding
from tbt_compile.passes.prepare.classify import Decision, Sign
from tbt_compile.passes.prepare.sites import CallSite, FoundSite, SiteKind, caller_of, site_name


@dataclass(frozen=True)
class Operand:
    """One quantized operand of a site: "input", "weight", "query", "key", "probabilities" or "value"."""

    name: str
    encoding: Encoding
    reason: str
    hadamard: int = 0
    """Features that are rotated together before they are quantized; 0: none."""

    @property
    def is_weight(self) -> bool:
        """Whether it is a parameter of the model, quantized from the statistics of its rows."""
        return self.name == "weight"

    def to_dict(self) -> dict[str, Any]:
        """The operand as JSON-ready values."""
        values = {"name": self.name, "encoding": self.encoding.value, "reason": self.reason}
        return values | ({"hadamard": self.hadamard} if self.hadamard else {})


def activation_operand(site: FoundSite, name: str, bits: int, signs: dict[str, Decision]) -> Operand:
    """Choose the encoding of an activation: signed if the operand is signed in any call of the site.

    Args:
        site: where it is an operand.
        name: of the operand.
        bits: of its codes.
        signs: the sign decision of every node, by node name.

    Returns:
        The plan of the operand.
    """
    nodes = [call.operands[name] for call in site.calls]
    inside = Decision(Sign.NONNEG, "output of softmax")
    decisions = [inside if node is None else signs[node.name] for node in nodes]
    decision = next((decision for decision in decisions if decision.signed), decisions[0])
    return Operand(name, Encoding.for_activation(bits, decision.signed), str(decision))


@dataclass(frozen=True)
class SitePlan:
    """The plan for one module.

    Attributes:
        tied_to: for a weight shared with an embedding, the name of the first module that owns it.
        calls: the function calls that make up the site, if it is no layer.
        shape: rows and columns of the weight of a call.
    """

    kind: SiteKind
    fqn: str
    operands: tuple[Operand, ...]
    tied_to: str | None = None
    calls: tuple[CallSite, ...] = ()
    shape: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """How the site is called in plans and recipes, see `site_name`."""
        return site_name(self.fqn, {name for call in self.calls for name in call.parameters})

    @property
    def owner(self) -> str:
        """Name of the module that holds the layer, or whose forward makes the calls."""
        return caller_of(self.fqn)

    @property
    def is_call(self) -> bool:
        """Whether the site is named after a call."""
        return caller_of(self.fqn) != self.fqn

    @property
    def quantizes_weight(self) -> bool:
        """Whether it has a weight and quantizes it."""
        return any(operand.is_weight and operand.encoding.quantized for operand in self.operands)

    def operand(self, name: str) -> Operand:
        """The operand of that name; KeyError if the site has none."""
        for operand in self.operands:
            if operand.name == name:
                return operand
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The plan of the site as JSON-ready values."""
        return {
            "kind": self.kind.value,
            "fqn": self.fqn,
            "tied_to": self.tied_to,
            "calls": [asdict(call) for call in self.calls],
            "shape": None if self.shape is None else list(self.shape),
            "operands": [operand.to_dict() for operand in self.operands],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SitePlan:
        """The inverse of `to_dict`."""
        operands = [
            Operand(item["name"], Encoding(item["encoding"]), item["reason"], item.get("hadamard", 0))
            for item in values["operands"]
        ]
        calls = map(CallSite.from_dict, values["calls"])
        shape = None if values["shape"] is None else tuple(values["shape"])
        return cls(
            SiteKind(values["kind"]), values["fqn"], tuple(operands), values["tied_to"], tuple(calls), shape
        )


def excluded_site(site: SitePlan | FoundSite, patterns: tuple[str, ...]) -> str | None:
    """The first pattern that matches a site by its module or call, or by its name; None if there is none."""
    return excluded_by(site.fqn, patterns) or excluded_by(site.name, patterns)


def excluded_by(fqn: str, patterns: tuple[str, ...]) -> str | None:
    """The first pattern that matches a module or one of its ancestors; None if there is none.

    >>> excluded_by("encoder.layers.0.fc1", ("decoder.*", "encoder.layers.0"))
    'encoder.layers.0'
    """
    parts = fqn.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return next((pattern for pattern in patterns for name in names if fnmatchcase(name, pattern)), None)
