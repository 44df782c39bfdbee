"""The units of a frozen model as graphs: exported, then rewritten by the lowering passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from tbt_compile.adapters.units import ExportUnits
    from tbt_compile.passes.lowering import LoweringContext

log = logging.getLogger(__name__)


@contextmanager
def exported_units(
    module: nn.Module, shortlist: Any = None, dynamic_shapes: Any = None
) -> Iterator[tuple[ExportUnits, dict[str, Any]]]:
    """Export the units of a frozen model, decomposed and with the checks of their lookups.

    Args:
        module: of the frozen model.
        shortlist: ids of the tokens that it may write, see `shortlist_of`; None for the whole vocabulary. The
            module has this head inside the context.
        dynamic_shapes: as for `lower`.

    Yields:
        The units, and what the manifest says of their lookups.

    Raises:
        LoweringError: as for `lower`.
    """
    from tbt_compile.adapters import adapter_for
    from tbt_compile.adapters.checked_lookups import checked_lookups
    from tbt_compile.adapters.dynamic_shapes import check_declared, declared_shapes
    from tbt_compile.adapters.shortlist import shortened
    from tbt_compile.codegen.importer.decompose import decompose
    from tbt_compile.passes.check_lookups import wrap_indices

    with shortened(module, shortlist), declared_shapes(module, dynamic_shapes):
        log.info("capturing %s", type(module).__name__)
        exported = adapter_for(module).export_units(module)
        check_declared(module, exported, dynamic_shapes)
        for unit in exported.contexts:
            decompose(unit)
        lookups = checked_lookups(exported)
        for unit in exported.contexts:
            wrap_indices(unit)
        yield exported, lookups


def lowered_units(exported: ExportUnits, name: str, dump: Path | None = None) -> list[LoweringContext]:
    """Run the lowering passes on copies of exported units: passes change them in place.

    Args:
        exported: the units.
        name: of the model, for messages.
        dump: folder to which every phase writes its graphs.

    Returns:
        The units, whose quantized operations are `tbt::` operators.

    Raises:
        LoweringError: as for `lower`.
    """
    from tbt_compile.passes.lowering import lowering_pipeline
    from tbt_compile.passes.lowering.pack_kv_cache import agree_on_caches, takes_caches_of

    units = [unit.copy() for unit in exported.contexts]
    for unit in units:
        lowering_pipeline().run(unit, None if dump is None else dump / unit.name)
    agree_on_caches(units, name)
    known = {unit.name: unit for unit in units}
    if "extend" in known and not takes_caches_of(known["extend"], known["step"]):
        log.info("%s keeps other caches where it appends several tokens: prompts are read whole", name)
        units.remove(known["extend"])
    return units


def tensor_names(module: nn.Module) -> dict[int, str]:
    """The names of a module's tensors by their address, under which a compiled folder stores them."""
    return {
        tensor.data_ptr(): name
        for named in (module.named_parameters(), module.named_buffers())
        for name, tensor in named
    }
