"""Kill training at random times, resume it, and compare it with an uninterrupted run.

    python examples/benchmarks/kill_and_resume.py
    python examples/benchmarks/kill_and_resume.py --decoder-only --kills 50 --full-disks --json kills.json

Both runs train a teacher and its students on the demo's text, in separate processes: `tbt reproduce` a BART
and two students, or with --decoder-only `tbt train` a Llama and a student with cached logits. The kill is
SIGKILL, which cannot be caught. With --full-disks every second interruption is a disk that takes no more
(RLIMIT_FSIZE), which has to end the run by one sentence and exit code 2. A run that finishes before it was
interrupted so often is compared, and started anew. Every score, loss and weight has to be the same to the
last digit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
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


def interrupt(asked: list[str], moment: float, limit: int | None) -> bool:
    """Start a run, and end it before it finishes.

    Args:
        asked: the command that starts and resumes it.
        moment: seconds after which it is killed.
        limit: bytes that its files may have instead; None: any number.

    Returns:
        Whether it was interrupted; False if it finished.
    """

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit) if limit is not None else (-1, -1))

    process = subprocess.Popen(
        asked, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=small_disk
    )
    try:
        _, said = process.communicate(timeout=None if limit is not None else moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    if process.returncode == 2 and limit is not None and "cannot write" in said and "Traceback" not in said:
        return True
    if process.returncode:
        raise SystemExit(f"the run failed with code {process.returncode}: {said[-2000:]}")
    return False


def run_interrupted(
    asked: list[str], seconds: float, times: int, moments: random.Random, full_disks: bool
) -> list[str]:
    """Start and interrupt a run repeatedly, then let it finish.

    Args:
        asked: the command that starts and resumes it.
        seconds: duration of an uninterrupted run; kills come within a third of it.
        times: maximum number of interruptions.
        moments: random numbers.
        full_disks: whether every second interruption is a full disk.

    Returns:
        What each interruption was.
    """
    done: list[str] = []
    while len(done) < times:
        moment = moments.uniform(0.0, seconds / 3)
        limit = int(10 ** moments.uniform(2, 6)) if full_disks and len(done) % 2 else None
        if not interrupt(asked, moment, limit):
            break
        done.append(f"killed after {moment:.1f} s" if limit is None else f"no file beyond {limit} bytes")
        print(done[-1], file=sys.stderr)
    subprocess.run(asked, check=True, stdout=subprocess.DEVNULL)
    return done


def main() -> None:
    """Run both, compare and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="number of interruptions")
    parser.add_argument("--steps", type=int, default=40, help="of the teacher and of each student")
    parser.add_argument("--decoder-only", action="store_true", help="`tbt train` with a Llama")
    parser.add_argument("--full-disks", action="store_true", help="every second one is a full disk")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        write_pairs_of_demo(folder / DATA)
        start = time.perf_counter()
        whole = command(folder / "whole", arguments.steps, arguments.decoder_only)
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
        seconds, expected = time.perf_counter() - start, figures(folder / "whole")
        moments, interruptions, runs = random.Random(arguments.seed), [], []
        while len(interruptions) < arguments.kills:
            output = folder / f"interrupted {len(runs)}"
            asked = command(output, arguments.steps, arguments.decoder_only)
            more = arguments.kills - len(interruptions)
            interruptions += run_interrupted(asked, seconds, more, moments, arguments.full_disks)
            runs.append(figures(output))
            shutil.rmtree(output)
    finally:
        shutil.rmtree(folder)
    same = bool(expected) and all(run == expected for run in runs)
    result = {
        "interruptions": interruptions,
        "seconds": round(seconds, 1),
        "same": same,
        "whole": expected,
        "interrupted": runs,
    }
    print(
        f"{len(interruptions)} interruptions of {len(runs)} runs, each of {seconds:.0f} s: figures "
        f"{'are the same' if same else 'DIFFER'}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
