"""Which lookups of a model are checked, before a call or in it, and which are not."""

from __future__ import annotations

import logging
from typing import Any

from tbt_compile.adapters.units import ExportUnits
from tbt_compile.passes.check_lookups import check_lookups, described
from tbt_compile.passes.index_bounds import IndexBounds, index_bounds
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.storage.model_folder import MODULE

log = logging.getLogger(__name__)

_MASK = {"attention_mask": 1}
_COUNTS = ("input_ids", "decoder_input_ids", "position_ids")


def bounds_of_step(unit: LoweringContext) -> IndexBounds:
    """Return what the inputs of a unit must satisfy, given that masks are 0 or 1 and nothing is negative."""
    return index_bounds(unit.program, _MASK, _COUNTS, unit.extents)


def checked_lookups(exported: ExportUnits) -> dict[str, Any]:
    """Add the checks of lookups to the unit of a plain module, or list those of a model that generates.

    A decode step has no output to spare, and the models of transformers compute indices from values in two
    places only: the buckets of T5's relative positions, which stay in their table, and the rows and columns
    that Pix2Struct's processor writes before each patch.

    Args:
        exported: units that are decomposed, not yet lowered.

    Returns:
        A part of the manifest: "lookups" are checked in the call, "clipped" read the nearest row.
    """
    if exported.kind == MODULE:
        (unit,) = exported.contexts
        return {"lookups": check_lookups(unit)}
    clipped = [
        f"{described(lookup, unit.root)} ({unit.name})"
        for unit in exported.contexts
        for lookup in bounds_of_step(unit).unknown
    ]
    for lookup in clipped:
        log.info("an index that is computed from values is clipped, not checked: %s", lookup)
    return {"clipped": clipped}
