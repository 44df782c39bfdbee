"""Kill `tbt reproduce` at random times, resume it, and compare it with an uninterrupted run.

    python examples/benchmarks/kill_and_resume.py
    python examples/benchmarks/kill_and_resume.py --kills 10 --json kills.json

Both runs train a teacher and two students on the demo's text, in separate processes. The kill is SIGKILL,
which cannot be caught. Every score and loss has to be the same to the last digit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = "tbt-2-2-2,bwn-1-1-1"
OPTIONS = ("--data", "DEMO", "--test-sentences", "40", "--batch-size", "16", "--save-every", "5")


def command(output: Path, steps: int) -> list[str]:
    """The command that starts and resumes the run."""
    counts = ("--steps", str(steps), "--teacher-steps", str(steps))
    run = (sys.executable, "-m", "tbt_compile", "reproduce", "table3", "--out", str(output), "--rows", ROWS)
    return [*run, *counts, *OPTIONS]


def figures(output: Path) -> dict[str, Any]:
    """Scores, losses and settings of every row, without times, which differ."""
    found = {}
    for path in sorted((output / "rows").glob("*.json")):
        row = json.loads(path.read_text())
        scores = {name: value for name, value in row["scores"].items() if name != "seconds"}
        found[path.stem] = {**row["asked"], **scores, "loss": row["outcome"]["loss"]}
    return found


def run_killed(output: Path, steps: int, seconds: float, kills: int, seed: int) -> list[float]:
    """Start and kill a run repeatedly, then let it finish.

    Args:
        output: folder of the run.
        steps: of each model.
        seconds: duration of an uninterrupted run; kills come within a third of it.
        kills: maximum number of kills.
        seed: of their times.

    Returns:
        Seconds from each start to its kill.
    """
    moments = random.Random(seed)
    done: list[float] = []
    while len(done) < kills:
        moment = moments.uniform(0.0, seconds / 3)
        process = subprocess.Popen(
            command(output, steps), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done.append(round(moment, 2))
            print(f"kill {len(done)} of {kills} after {moment:.1f} s", file=sys.stderr)
            continue
        if process.returncode:
            raise SystemExit(f"the run failed with code {process.returncode}")
        break  # the run finished before its kill
    subprocess.run(command(output, steps), check=True, stdout=subprocess.DEVNULL)
    return done


def main() -> None:
    """Run both, compare and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="number of kills")
    parser.add_argument("--steps", type=int, default=40, help="of the teacher and of each student")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        start = time.perf_counter()
        subprocess.run(command(folder / "whole", arguments.steps), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        killed = run_killed(folder / "killed", arguments.steps, seconds, arguments.kills, arguments.seed)
        whole, resumed = figures(folder / "whole"), figures(folder / "killed")
    finally:
        shutil.rmtree(folder)
    same = whole == resumed
    result = {"kills": killed, "seconds": round(seconds, 1), "same": same, "whole": whole, "resumed": resumed}
    print(f"{len(killed)} kills in runs of {seconds:.0f} s: figures {'are the same' if same else 'DIFFER'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
