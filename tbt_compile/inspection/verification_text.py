"""A verification as a table: the units, and the nodes that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tbt_compile.table import Table, amount, as_html

if TYPE_CHECKING:
    from tbt_compile.inspection.checks import NodeCheck, Verification

_SHOWN = 20
_UNITS = ("unit", "nodes", "on codes", "equal", "elements", "codes", "flipped")
_NODES = ("unit", "node", "layer", "operator", "differing", "largest", "SQNR", "flipped codes")


def verification_text(found: Verification, every: bool = False) -> str:
    """The verdict, a table of the units, and one of the nodes that differ, or of every node."""
    parts = [*verdict(found), "", units(found).text()]
    if table := nodes(found, every):
        parts += ["", table.text()]
    return "\n".join(parts)


def verification_html(found: Verification) -> str:
    """The same for a notebook."""
    title, *rest = verdict(found)
    tables = [table for table in (units(found), nodes(found, False)) if table is not None]
    return as_html(title, *rest, *tables)


def verdict(found: Verification) -> list[str]:
    """What holds and what does not, a line each."""
    name = f"{found.model} compiled for {found.target}"
    lines = [f"{name}: {'equal to its frozen model' if found.ok else 'NOT equal to its frozen model'}"]
    integer = [node for node in found.nodes if node.on_codes]
    floats = [node for node in found.nodes if not node.on_codes]
    for label, group in (("nodes on codes", integer), ("float nodes", floats)):
        lines.append(f"{label}: {sum(node.equal for node in group)} of {len(group)} equal, bit for bit")
    first = found.first_divergence
    if first is not None:
        lines.append(
            f"first divergence: {first.operator} of {first.layer or 'the model itself'} in {first.unit}"
        )
    if not found.same_library:
        lines.append("the library returns other bits than its nodes do: it is damaged, or compiled otherwise")
    share = f"{found.agreement:.1%}, at least {found.least:.0%}"
    return [*lines, f"tokens: {found.equal_tokens} of {found.tokens} equal ({share})"]


def units(found: Verification) -> Table:
    """One row per compiled function."""
    rows = []
    for unit in dict.fromkeys(node.unit for node in found.nodes):
        group = [node for node in found.nodes if node.unit == unit]
        rows.append(
            (
                unit,
                str(len(group)),
                str(sum(node.on_codes for node in group)),
                str(sum(node.equal for node in group)),
                amount(sum(node.elements for node in group)),
                amount(sum(node.codes for node in group)),
                amount(sum(node.flipped for node in group)),
            )
        )
    return Table(_UNITS, rows, frozenset(_UNITS[1:]))


def nodes(found: Verification, every: bool) -> Table | None:
    """One row per node: those that differ, or compute something else after one that does; None if none."""
    shown: Sequence[NodeCheck] = found.nodes
    if not every:
        shown = [node for node in found.nodes if not node.equal or node.sqnr is not None][:_SHOWN]
    rows = [
        (
            node.unit,
            node.node,
            node.layer,
            node.operator,
            "-" if node.equal else f"{node.differing / node.elements:.2%}",
            "" if node.equal else f"{node.largest:.3g}",
            "" if node.sqnr is None else f"{node.sqnr:.1f} dB",
            f"{node.flip_rate:.2%}" if node.codes else "",
        )
        for node in shown
    ]
    return Table(_NODES, rows, frozenset(_NODES[4:])) if rows else None
