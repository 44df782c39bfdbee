"""Texts compared with the files in `tests/golden`.

After a change that is meant, `TBT_UPDATE_GOLDEN=1 pytest <tests>` writes them anew: read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch.fx.passes.infra.pass_base import PassBase

from tbt_compile.errors import LoweringError
from tbt_compile.passes.base import Pass, graph_text, lint, pass_name, run_pass
from tbt_compile.passes.lowering import LoweringContext

GOLDEN = Path(__file__).parent / "golden"


def check_text(name: str, text: str) -> None:
    """Compare with `<name>.txt`, exactly."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("TBT_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} has changed"


def check_pass(step: Pass[LoweringContext] | PassBase, unit: LoweringContext) -> None:
    """Compare the graph of a unit before and after a pass with `passes/<pass>.txt`."""
    module = unit.program.graph_module
    before = graph_text(module)
    try:
        result = run_pass(step, unit)
    except LoweringError as error:
        after = f"# error: {error}\n"
    else:
        lint(unit)
        header = f"# after: {result.changes} changes. {result.note}".rstrip()
        after = f"{header}\n{graph_text(module)}"
    check_text(f"passes/{pass_name(step)}", f"# before\n{before}\n{after}")
