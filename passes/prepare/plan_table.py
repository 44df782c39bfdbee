"""A plan as an aligned table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.plan import QuantPlan
    from tbt_compile.passes.prepare.unquantized import Unquantized

_HEADER = ("module", "kind", "operand", "encoding", "why")


def plan_text(plan: QuantPlan) -> str:
    """One row per operand, what stays in full precision, grouped by reason, and what will not compile."""
    rows: list[Sequence[str]] = [_HEADER]
    for site in plan.sites:
        for index, operand in enumerate(site.operands):
            first = index == 0
            rows.append(
                (
                    (site.name or "(model)") if first else "",
                    site.kind.value if first else "",
                    operand.name,
                    operand.encoding.value,
                    operand.reason,
                )
            )
    title = f"{plan.model}, recipe {plan.recipe!r}: {len(plan.sites)} sites"
    lines = [title, *align(rows)]
    if plan.unquantized:
        lines += ["", "kept in full precision", *_kept_lines(plan.unquantized)]
    if plan.refused:
        lines += ["", "lower will refuse this model", *plan.refused]
    return "\n".join(lines)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with left-aligned columns.

    >>> align([("a", "bb"), ("ccc", "d")])
    ['a    bb', 'ccc  d']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _kept_lines(items: Iterable[Unquantized], shown: int = 3) -> list[str]:
    """One line per reason: how many, the first few names, and the reason."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.reason, []).append(item.name or "(model)")
    rows = []
    for reason, names in groups.items():
        more = ", ..." if len(names) > shown else ""
        rows.append((f"{len(names)} x", ", ".join(names[:shown]) + more, reason))
    return align(rows)
