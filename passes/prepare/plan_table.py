"""A plan as an aligned table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tbt_compile.table import Table, align, as_html

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.plan import QuantPlan
    from tbt_compile.passes.prepare.unquantized import Unquantized

_HEADER = ("module", "kind", "operand", "encoding", "why")


def plan_text(plan: QuantPlan) -> str:
    """One row per operand, what stays in full precision, grouped by reason, and what will not compile."""
    lines = [_title(plan), *align([_HEADER, *_rows(plan)])]
    if plan.unquantized:
        lines += ["", "kept in full precision", *align(_kept(plan.unquantized))]
    if plan.refused:
        lines += ["", "lower will refuse this model", *plan.refused]
    return "\n".join(lines)


def plan_html(plan: QuantPlan) -> str:
    """The same for a notebook."""
    kept = Table(("", "kept in full precision", "why"), _kept(plan.unquantized))
    refused = [f"lower will refuse this model: {reason}" for reason in plan.refused]
    return as_html(_title(plan), Table(_HEADER, _rows(plan)), kept, *refused)


def _title(plan: QuantPlan) -> str:
    return f"{plan.model}, recipe {plan.recipe!r}: {len(plan.sites)} sites"


def _rows(plan: QuantPlan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
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
    return rows


def _kept(items: Iterable[Unquantized], shown: int = 3) -> list[Sequence[str]]:
    """One row per reason: how many, the first few names, and the reason."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.reason, []).append(item.name or "(model)")
    rows: list[Sequence[str]] = []
    for reason, names in groups.items():
        more = ", ..." if len(names) > shown else ""
        rows.append((f"{len(names)} x", ", ".join(names[:shown]) + more, reason))
    return rows
