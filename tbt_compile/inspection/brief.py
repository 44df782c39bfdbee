"""A model in a few lines: what `print` and notebooks show of frozen and compiled models."""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.inspection.layers import Layer, Summary
from tbt_compile.inspection.summary_text import notes
from tbt_compile.table import Table, amount, as_html, mebibytes

_NUMBERS = ("layers", "parameters", "before", "in memory")
_HEADINGS = ("kind", "weight", "inputs", *_NUMBERS)


def brief_text(title: str, summary: Summary | None) -> str:
    """The title, and a row per kind of layer; the title alone if nothing was recorded of the layers."""
    if summary is None:
        return title
    return "\n".join([title, *_notes(summary), kinds(summary).text()])


def brief_html(title: str, summary: Summary | None) -> str:
    """The same for a notebook."""
    return as_html(title) if summary is None else as_html(title, *_notes(summary), kinds(summary))


def kinds(summary: Summary) -> Table:
    """One row per kind of layer, weight and inputs; what is left in full precision comes last."""
    groups: dict[tuple[str, str, str], list[Layer]] = {}
    for layer in summary.layers:
        quantized = bool(layer.activations) or layer.weight_bits not in (None, 32)
        inputs = ", ".join(dict.fromkeys(each.encoding for each in layer.activations))
        key = (layer.kind, layer.weight or "", inputs) if quantized else ("others", "in full precision", "")
        groups.setdefault(key, []).append(layer)
    rows = [
        _row(key, layers) for key, layers in sorted(groups.items(), key=lambda item: item[0][0] == "others")
    ]
    return Table(_HEADINGS, rows, frozenset(_NUMBERS))


def _row(key: Sequence[str], layers: Sequence[Layer]) -> Sequence[str]:
    return (
        *key,
        str(len(layers)),
        amount(sum(layer.parameters for layer in layers)),
        mebibytes(sum(layer.bytes_before for layer in layers)),
        mebibytes(sum(layer.bytes_after for layer in layers)),
    )


def _notes(summary: Summary) -> list[str]:
    return [] if summary.uncounted else notes(summary)
