"""What a report shows, as data. Needs neither torch nor TVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Missing:
    """A section without content.

    Attributes:
        missing: why, and how to get it, in one sentence.
    """

    missing: str


@dataclass(frozen=True)
class Quantizer:
    """A quantizer in front of an operation.

    Attributes:
        operand: "input", "weight", "query", "key", "probabilities" or "value".
        encoding: value of an `Encoding`, or "float32" for what stays in full precision.
        category: "signed", "non-negative", "8-bit" or "none".
        why: what the category follows from.
    """

    operand: str
    encoding: str
    category: str
    why: str = ""


@dataclass(frozen=True)
class Operation:
    """A node of a graph.

    Attributes:
        label: name of the operator, or of the input or output.
        module: index of the module that runs it.
        inputs: indices of the operations whose results it takes.
        shape: of its result in the call that was captured; "" if it is no tensor.
        quantizers: of its operands.
    """

    label: str
    module: int
    inputs: tuple[int, ...]
    shape: str = ""
    quantizers: tuple[Quantizer, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A captured graph.

    Attributes:
        modules: dotted name, class, and index of the module that calls it; the first is the model, with -1.
        operations: in the order of execution.
    """

    modules: tuple[tuple[str, str, int], ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Graphs:
    """The graph before and after quantization.

    Attributes:
        recipe: in E-W-A notation.
        note: what it was captured from.
        before: in full precision.
        after: with quantizers.
    """

    recipe: str
    note: str
    before: Graph
    after: Graph


@dataclass(frozen=True)
class Codes:
    """How often each code occurs.

    Attributes:
        operand: as in `Quantizer`.
        encoding: value of an `Encoding`.
        levels: codes that occur, ascending.
        shares: of each, adding up to 1.
        entropy: in bits (Eq. 7).
    """

    operand: str
    encoding: str
    levels: tuple[int, ...]
    shares: tuple[float, ...]
    entropy: float


@dataclass(frozen=True)
class Values:
    """A histogram of floats.

    Attributes:
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        counts: elements per bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerCodes:
    """The distributions of a layer.

    Attributes:
        name: dotted name.
        values: of the weight in full precision; None if there is none.
        weight: the codes of the weight; None if it is not quantized.
        activations: the codes of each operand in one call.
    """

    name: str
    values: Values | None
    weight: Codes | None
    activations: tuple[Codes, ...] = ()


@dataclass(frozen=True)
class Histograms:
    """The distributions of all layers.

    Attributes:
        layers: in the order of the modules.
        call: the inputs of the call that the activations are of.
        notes: what is not shown, and why.
    """

    layers: tuple[LayerCodes, ...]
    call: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Times:
    """Where the time of a compiled model goes.

    Attributes:
        work: what was run.
        cpu: that it ran on.
        layers: microseconds by dotted name; "" is what belongs to no layer.
        total: microseconds of all kernels.
    """

    work: str
    cpu: str
    layers: dict[str, float]
    total: float


@dataclass(frozen=True)
class Benchmark:
    """One run of `tbt bench generate`.

    Attributes:
        title: the workload in words.
        conditions: CPU, versions and the date of the file, in words.
        rows: one per engine, as in the file, without samples.
    """

    title: str
    conditions: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Samples:
    """Texts of several models for the same sources.

    Attributes:
        names: of the models.
        rows: of each source, the source and the text of every model; None where it has none.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows; a section that cannot be had is `Missing`.

    Attributes:
        title: of the page.
        facts: heading and text of what is known of the whole model.
        summary: as `Summary.to_dict` gives it.
        graphs: before and after quantization.
        histograms: of weights, codes and activations.
        times: by layer.
        benchmarks: beside other engines.
        samples: side by side.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    summary: dict[str, Any]
    graphs: Graphs | Missing
    histograms: Histograms | Missing
    times: Times | Missing
    benchmarks: Sequence[Benchmark] | Missing = field(
        default=Missing("No benchmark was given: `tbt bench generate --json FILE`, then `--bench FILE`.")
    )
    samples: Samples | Missing = field(
        default=Missing("No texts were given: `tbt run FOLDER --json FILE`, then `--texts NAME=FILE`.")
    )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)
