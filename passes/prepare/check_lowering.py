"""Ask what `lower` will refuse, while the model is still in full precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tbt_compile.passes.base import PassResult

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


@dataclass(frozen=True)
class CheckLowering:
    """Note in the plan what `lower` will refuse.

    Needs: the captured graph and the plan. Leaves: `context.plan` with `refused`, one sentence each; the
    graph is not changed.
    """

    name: str = "check-lowering"

    def apply(self, context: PrepareContext) -> PassResult:
        refused = context.adapter.refusals(context)
        context.plan = replace(context.planned, refused=tuple(refused))
        return PassResult(len(refused), "reasons why lower will refuse the model" if refused else "")
