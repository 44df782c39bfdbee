"""Kill training at random times, resume it, and compare it with an uninterrupted run.

    python examples/benchmarks/kill_and_resume.py
    python examples/benchmarks/kill_and_resume.py --decoder-only --kills 10 --json kills.json

Both runs train a teacher and its students on the demo's text, in separate processes: `tbt reproduce` a BART
and two students, or with --decoder-only `tbt train` a Llama and a student with cached logits. The kill is
SIGKILL, which cannot be caught. Every score, loss and weight has to be the same to the last digit.
"""

from __future__ import annotations

import argparse
import hashlib
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
OPTIONS = ("--test-sentences", "40", "--batch-size", "16", "--save-every", "5")
DATA = "pairs"
DECODER = (
    *("--model-type", "llama", "--template", "{source} :", "--vocab-size", "1000", "--source-length", "32"),
    *("--target-length", "16", "--hidden", "0", "--cache-logits", "32"),
)


def write_pairs_of_demo(folder: Path) -> None:
    """The data of a decoder-only run: news items and summaries of the demo."""
    from tbt_compile.data.text_pairs import TextPair, write_pairs
    from tbt_compile.demo.grammar import make_items

    folder.mkdir()
    for split, count, seed in (("train", 1000, 1), ("test", 40, 2)):
        items = make_items(count, seed)
        write_pairs(folder / f"{split}.jsonl", (TextPair(item.source, item.target) for item in items))


def command(output: Path, steps: int, decoder_only: bool) -> list[str]:
    """The command that starts and resumes the run.

    Args:
        output: folder of the run.
        steps: of each model.
        decoder_only: train a Llama and one student of it with cached logits, else a BART and two students.
    """
    start = (sys.executable, "-m", "tbt_compile")
    counts = ("--steps", str(steps), "--teacher-steps", str(steps))
    if not decoder_only:
        run = (*start, "reproduce", "table3", "--out", str(output), "--rows", ROWS, "--data", "DEMO")
        return [*run, *counts, *OPTIONS]
    run = (*start, "train", "--output", str(output), "--data", str(output.parent / DATA), *DECODER)
    return [*run, *counts, *OPTIONS]


def figures(output: Path) -> dict[str, Any]:
    """Scores, losses, settings and a hash of the weights of every model, without times, which differ."""
    found = {}
    for path in sorted((output / "rows").glob("*.json")):
        row = json.loads(path.read_text())
        scores = {name: value for name, value in row["scores"].items() if name != "seconds"}
        found[path.stem] = {**row["asked"], **scores, "loss": row["outcome"]["loss"]}
    for path in sorted(output.glob("*/results.json")):
        for name, scores in json.loads(path.read_text()).items():
            found[name] = {key: value for key, value in scores.items() if key != "seconds"}
    for path in sorted(output.glob("*/training.json")):
        record, weights = json.loads(path.read_text()), path.with_name("model.safetensors")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        found[f"{path.parent.name} run"] = {"loss": record["outcome"]["loss"], "weights": digest}
    return found


def run_killed(asked: list[str], seconds: float, kills: int, seed: int) -> list[float]:
    """Start and kill a run repeatedly, then let it finish.

    Args:
        asked: the command that starts and resumes it.
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
        process = subprocess.Popen(asked, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
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
    subprocess.run(asked, check=True, stdout=subprocess.DEVNULL)
    return done


def main() -> None:
    """Run both, compare and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="number of kills")
    parser.add_argument("--steps", type=int, default=40, help="of the teacher and of each student")
    parser.add_argument("--decoder-only", action="store_true", help="`tbt train` with a Llama")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        write_pairs_of_demo(folder / DATA)
        whole, killed_one = (
            command(folder / name, arguments.steps, arguments.decoder_only) for name in ("whole", "killed")
        )
        start = time.perf_counter()
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        killed = run_killed(killed_one, seconds, arguments.kills, arguments.seed)
        expected, resumed = figures(folder / "whole"), figures(folder / "killed")
    finally:
        shutil.rmtree(folder)
    same = bool(expected) and expected == resumed
    result = {
        "kills": killed,
        "seconds": round(seconds, 1),
        "same": same,
        "whole": expected,
        "resumed": resumed,
    }
    print(f"{len(killed)} kills in runs of {seconds:.0f} s: figures {'are the same' if same else 'DIFFER'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
