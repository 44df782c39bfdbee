"""What rotated inputs cost at run time: models with and without `hadamard`, one thread, in turns.

    python examples/benchmarks/rotations.py --folder rotations --build
    python examples/benchmarks/rotations.py --folder rotations --json out.json

The first command compiles random models of the shapes into the folder, the second one measures those that are
there. *first* is the time to the first token, of 512 source tokens; *step* that of each later one. The inputs
of output and down projections are rotated, as in BitNet v2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from tbt_compile import recipe as recipes
from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.engines import compiled
from tbt_compile.bench.job import Job

LAYERS = {"bart-base": ("*.out_proj", "*.fc2"), "llama-134m": ("*.o_proj", "*.down_proj")}
SOURCE, NEW = 512, 32


def job_of(shape: str, notation: str, rotated: bool, folder: Path) -> Job:
    """The work of one model: a folder of its own, and a recipe by name.

    Args:
        shape: a key of `LAYERS`.
        notation: E-W-A.
        rotated: whether the inputs of the shape's layers are rotated.
        folder: for all models.
    """
    name = f"{notation}-hadamard-{shape}" if rotated else notation
    if rotated:
        recipes.register(name, recipes.Recipe.parse(notation, hadamard=LAYERS[shape]))
    place = folder / f"{shape}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    return Job("tbt", name, shape, 1, SOURCE, NEW, "host", str(place))


def seconds_of(runner: Any, count: int) -> float:
    """Wall time to generate so many tokens."""
    start = time.perf_counter()
    runner.generate(count)
    return time.perf_counter() - start


def measure(jobs: dict[str, Job], repeats: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds: *first* and *step* of every model, all in turns."""
    runners = {name: compiled.load(job) for name, job in jobs.items()}
    found: dict[str, dict[str, list[float]]] = {name: {"first": [], "step": []} for name in runners}
    for turn in range(repeats + 1):
        for name, runner in runners.items():
            first, whole = seconds_of(runner, 1), seconds_of(runner, NEW + 1)
            if turn:  # the first one touches the memory
                found[name]["first"].append(1e3 * first)
                found[name]["step"].append(1e3 * (whole - first) / NEW)
    return {
        name: {key: statistics.median(each) for key, each in times.items()} for name, times in found.items()
    }


def main() -> None:
    """Build or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("rotations"), help="Where the compiled models are."
    )
    parser.add_argument("--shapes", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--recipes", nargs="*", default=["1-1-1", "2-2-2", "2-2-8"], help="E-W-A notations.")
    parser.add_argument("--repeats", type=int, default=15, help="Turns of every model.")
    parser.add_argument("--build", action="store_true", help="Compile the models that are not there yet.")
    parser.add_argument("--json", type=Path, help="File for the figures.")
    options = parser.parse_args()
    rows = []
    for shape, notation in itertools.product(options.shapes, options.recipes):
        names = {"plain": False, "rotated": True}
        jobs = {name: job_of(shape, notation, rotated, options.folder) for name, rotated in names.items()}
        if options.build:
            for job in jobs.values():
                if not compiled.folder_of(job).exists():
                    compiled.build(job)
            continue
        row = {"shape": shape, "recipe": notation, **measure(jobs, options.repeats)}
        rows.append(row)
        for key in ("first", "step"):
            plain, rotated = row["plain"][key], row["rotated"][key]
            more = rotated / plain - 1
            print(f"{shape} {notation} {key}: {plain:.3f} ms, rotated {rotated:.3f} ms ({more:+.1%})")
    if options.json and rows:
        options.json.write_text(json.dumps({"conditions": conditions(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
