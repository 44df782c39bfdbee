"""A summary as a tree of modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tbt_compile.table import Table, amount, as_html, mebibytes

if TYPE_CHECKING:
    from tbt_compile.inspection.layers import Layer, Summary

_NUMBERS = ("parameters", "before", "after", "MACs")
_HEADINGS = ("module", "kind", "operand", "encoding", *_NUMBERS, "why")
_NO_NUMBERS = ("",) * len(_NUMBERS)


def summary_text(summary: Summary, depth: int | None = None) -> str:
    """Totals, then the tree; what lies deeper than `depth` names is added up."""
    return "\n".join([title(summary), *notes(summary), "", tree(summary, depth).text()])


def summary_html(summary: Summary) -> str:
    """The same for a notebook."""
    return as_html(title(summary), *notes(summary), tree(summary))


def title(summary: Summary) -> str:
    """Class, stage, parameters and bytes."""
    recipe = f" at {summary.recipe}" if summary.recipe else ""
    size = mebibytes(summary.bytes_before)
    if summary.bytes_after != summary.bytes_before:
        size += f" -> {mebibytes(summary.bytes_after)}"
    return f"{summary.model}, {summary.stage}{recipe}: {amount(summary.parameters)} parameters, {size}"


def notes(summary: Summary) -> list[str]:
    """What is multiplied in one call, by bits of activations x weights."""
    if summary.uncounted:
        return [f"MACs not counted: {summary.uncounted}"]
    total = sum(summary.macs.values())
    shares = ", ".join(f"{product}: {count / total:.1%}" for product, count in summary.macs.items())
    return [
        f"{amount(total)} MACs for {summary.call}",
        f"by bits of the operands: {shares}; left in float: {summary.float_share:.1%}",
    ]


def tree(summary: Summary, depth: int | None = None) -> Table:
    """One row per module on the way to a layer and per operand; containers have the sums of what they hold.

    Of blocks that are alike, such as the layers of a transformer, the first is shown in full.

    Args:
        summary: of a model.
        depth: how many names deep the tree goes; None shows all layers.
    """
    rows: list[Sequence[str]] = []
    shown: set[str] = set()
    folded: set[str] = set()
    blocks: dict[tuple[Layer, ...], str] = {}
    named = {layer.name: layer for layer in summary.layers}
    for layer in summary.layers:
        parts = layer.name.split(".") if layer.name else []
        for length in range(len(parts) + 1):
            name = ".".join(parts[:length])
            if name in folded or (depth is not None and length > depth):
                break
            if name in shown:
                continue
            shown.add(name)
            inside = [each for each in summary.layers if _holds(name, each.name)]
            label = "  " * length + (parts[length - 1] if length else "(model)")
            why, cut = "", length == depth
            if name.rpartition(".")[2].isdecimal() and len(inside) > 1:
                first = blocks.setdefault(_relative(inside, name), name)
                if first != name:
                    folded.add(name)
                    why, cut = f"as {first}", True
            rows += _rows(label, None if cut and len(inside) > 1 else named.get(name), inside, why)
            if name in folded:
                break
    return Table(_HEADINGS, rows, frozenset(_NUMBERS))


def _relative(layers: Sequence[Layer], name: str) -> tuple[Layer, ...]:
    """Layers with their names inside a module, without what compression makes of their values."""
    return tuple(replace(each, name=each.name.removeprefix(name), bytes_after=0) for each in layers)


def _holds(name: str, other: str) -> bool:
    return not name or other == name or other.startswith(f"{name}.")


def _rows(label: str, layer: Layer | None, inside: Sequence[Layer], why: str) -> list[Sequence[str]]:
    """The rows of a module: of its operands if it is a layer, or one of sums."""
    counted = [each.macs for each in inside if each.macs is not None]
    numbers = (
        amount(sum(each.parameters for each in inside)),
        mebibytes(sum(each.bytes_before for each in inside)),
        mebibytes(sum(each.bytes_after for each in inside)),
        amount(sum(counted)) if any(counted) else "",
    )
    if layer is None:
        return [(label, "", "", "", *numbers, why)]
    operands = [(each.name, each.encoding, each.why or each.category) for each in layer.activations]
    if layer.weight is not None:
        shared = f"shares the weight of {layer.tied_to}" if layer.tied_to else ""
        operands.append(("weight", layer.weight, shared))
    rows: list[Sequence[str]] = []
    for name, encoding, reason in operands or [("", "", "")]:
        first = not rows
        head = (label, layer.kind) if first else ("", "")
        rows.append((*head, name, encoding, *(numbers if first else _NO_NUMBERS), reason))
    return rows
