"""Memory over many generations, with the script that does it for thousands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from compiled_tools import Case

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "soak.py"


def test_memory_stays_where_it_is(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    command = [sys.executable, str(SCRIPT), str(case.folder), "--count", "300", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert [row["generations"] for row in rows] == list(range(0, 301, 15))
    after_warm_up, last = rows[len(rows) // 2]["mib"], rows[-1]["mib"]
    assert after_warm_up > 50
    assert last < after_warm_up + 3, rows  # keeping even 20 kB of each would show
