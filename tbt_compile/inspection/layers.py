"""The summary of a model as data: one entry per layer, and totals. Needs neither torch nor TVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tbt_compile.encoding import Encoding
from tbt_compile.errors import MissingPackageError

FULL = 32
"""Bits of an operand in full precision."""


@dataclass(frozen=True)
class Activation:
    """A quantized activation of a layer.

    Attributes:
        name: "input", "query", "key", "probabilities" or "value".
        encoding: value of an `Encoding`.
        why: what its category follows from; "" if that was not recorded.
    """

    name: str
    encoding: str
    why: str = ""

    @property
    def bits(self) -> int:
        """As in E-W-A notation."""
        return Encoding(self.encoding).bits

    @property
    def category(self) -> str:
        """Whether its codes have a sign."""
        return "signed" if Encoding(self.encoding).signed else "non-negative"


@dataclass(frozen=True)
class Layer:
    """A module with a weight, parameters or products of its own.

    Attributes:
        name: dotted name of the module.
        kind: "linear", "embedding", "attention" if it is quantized, else its class.
        weight: value of an `Encoding`, or the dtype of a weight in full precision; None without a weight.
        activations: its quantized activations.
        parameters: elements, without those that an earlier layer shares.
        bytes_before: of its parameters and buffers in the dtype of the checkpoint.
        bytes_after: of the same, and of scales, in the file of a saved model.
        nominal_bytes: elements of packed weights times their bits, without scales, and everything else as it
            is in memory.
        macs: multiplications in one call of the model; None if they were not counted.
        tied_to: the layer that it shares its weight with.
    """

    name: str
    kind: str
    weight: str | None = None
    activations: tuple[Activation, ...] = ()
    parameters: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    nominal_bytes: int = 0
    macs: int | None = None
    tied_to: str | None = None

    @property
    def weight_bits(self) -> int | None:
        """Bits of the weight as in E-W-A notation; None without a weight."""
        if self.weight is None:
            return None
        known = {encoding.value: encoding.bits for encoding in Encoding if encoding.quantized}
        return known.get(self.weight, FULL)

    @property
    def bits(self) -> tuple[int, int]:
        """Bits of both operands of its products: activation and weight, or two activations."""
        activations = [activation.bits for activation in self.activations]
        if self.weight is None:
            return (min(activations), max(activations)) if activations else (FULL, FULL)
        return (activations[0] if activations else FULL, self.weight_bits or FULL)

    @property
    def in_float(self) -> bool:
        """Whether its products are of floats: an operand is not quantized."""
        return FULL in self.bits


@dataclass(frozen=True)
class Summary:
    """What a model is made of; `print` shows a tree, `to_dict` returns JSON values.

    Attributes:
        model: class name.
        stage: "float", "prepared", "frozen" or "compiled".
        recipe: in E-W-A notation; None for a model in full precision.
        layers: in the order of the modules.
        call: the inputs of the call whose multiplications are counted.
        uncounted: why they were not; "" if they were.
    """

    model: str
    stage: str
    recipe: str | None
    layers: tuple[Layer, ...]
    call: str = ""
    uncounted: str = ""

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Layer:
        """The layer of that name; KeyError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def parameters(self) -> int:
        """Parameters of the model; shared ones count once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def bytes_before(self) -> int:
        """Bytes in the dtype of the checkpoint."""
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """Bytes in the file of a saved model."""
        return sum(layer.bytes_after for layer in self.layers)

    @property
    def nominal_bytes(self) -> int:
        """Bytes as papers count them: bits of weights without scales, the rest in float32."""
        return sum(layer.nominal_bytes for layer in self.layers)

    @property
    def macs(self) -> dict[str, int]:
        """Multiplications of the call by bits of the operands, "2 x 2", most first; {} if not counted."""
        totals: dict[str, int] = {}
        for layer in self.layers:
            if layer.macs:
                product = " x ".join(map(str, layer.bits))
                totals[product] = totals.get(product, 0) + layer.macs
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    @property
    def float_share(self) -> float | None:
        """The share of multiplications with an operand in full precision, 0 to 1; None if not counted."""
        if self.uncounted:
            return None
        total = sum(layer.macs or 0 for layer in self.layers)
        return sum(layer.macs or 0 for layer in self.layers if layer.in_float) / max(1, total)

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready values, totals included."""
        totals = {
            "parameters": self.parameters,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "nominal_bytes": self.nominal_bytes,
            "macs": self.macs,
            "float_share": self.float_share,
        }
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers], "totals": totals}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Summary:
        """The inverse of `to_dict`."""
        layers = tuple(
            Layer(**{**layer, "activations": tuple(Activation(**each) for each in layer["activations"])})
            for layer in values["layers"]
        )
        rest = {name: values[name] for name in ("model", "stage", "recipe", "call", "uncounted")}
        return cls(layers=layers, **rest)

    def to_dataframe(self) -> Any:
        """The layers as a pandas DataFrame, one row each.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                "pandas is not installed: a DataFrame needs it; `pip install pandas`, or use to_dict()"
            ) from error
        return pandas.DataFrame([_flat(layer) for layer in self.layers])

    def __str__(self) -> str:
        from tbt_compile.inspection.summary_text import summary_text

        return summary_text(self)

    def _repr_html_(self) -> str:
        from tbt_compile.inspection.summary_text import summary_html

        return summary_html(self)


def _flat(layer: Layer) -> dict[str, Any]:
    """The columns of a layer; activations are joined to one text."""
    texts = {name: "; ".join(values) for name, values in _columns(layer).items()}
    flat = {**asdict(layer), **texts, "weight_bits": layer.weight_bits, "in_float": layer.in_float}
    del flat["activations"]
    return flat


def _columns(layer: Layer) -> dict[str, list[str]]:
    return {
        "inputs": [f"{each.name} {each.encoding}" for each in layer.activations],
        "category": [each.category for each in layer.activations],
        "why": [each.why for each in layer.activations],
    }
