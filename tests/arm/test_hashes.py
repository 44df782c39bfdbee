"""Two layers have the recorded hash in PyTorch, on this machine's instruction sets, and on emulated CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from arm.environment import Environment

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "hashes.py"


def test_every_engine_has_the_recorded_hash(environment: Environment) -> None:
    """In a process with two threads."""
    command = [sys.executable, str(SCRIPT), "--layers", "2", "--families", "llama", "--recipes", "2-2-8"]
    variables = os.environ | {"OMP_NUM_THREADS": "2", "TVM_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| llama")]
    for engine, count in (("PyTorch", 2), ("1 threads", 2), ("2 threads", 2), ("emulated", 4)):
        assert sum(f"| {engine} |" in row for row in rows) >= count, engine
