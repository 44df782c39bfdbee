"""Lowered units to an executable library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbt_compile.codegen.importer import ImportedUnits, import_units
from tbt_compile.codegen.relax_api import compile_module
from tbt_compile.codegen.target import TargetSpec
from tbt_compile.codegen.tvm_api import Target
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import LoweringContext


def compile_units(
    units: list[LoweringContext], spec: TargetSpec, known: dict[int, str], dump: str | Path | None = None
) -> tuple[Any, ImportedUnits]:
    """Import the units into one Relax module and build it for `spec`.

    Args:
        known: names of the frozen model's tensors by address; see `import_units`.
        dump: a folder for the Relax module as text.

    Returns:
        The executable for TVM's virtual machine, and what was imported.

    Raises:
        LoweringError: TVM cannot import or build a unit.
    """
    imported = import_units(units, spec.isa, known)
    if dump is not None:
        Path(dump).mkdir(parents=True, exist_ok=True)
        (Path(dump) / "relax.txt").write_text(str(imported.module), encoding="utf-8")
    try:
        return compile_module(imported.module, Target(spec.as_dict())), imported
    except (RuntimeError, TypeError, ValueError) as error:
        raise LoweringError(
            f"TVM cannot build the model for {spec.mcpu}: {str(error).strip().splitlines()[-1]}"
        ) from error
