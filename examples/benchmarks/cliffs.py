"""Performance cliffs of linear layers: time over random sizes, most not multiples of the tile.

    python examples/benchmarks/cliffs.py --json out.json --plot cliffs.png

Every random shape is compared with the next larger one whose N and K are multiples of the tile. The larger
one does at least as much work, so a ratio well above 1 is time lost at the edges. Both are measured in turns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import numpy as np

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.kernel_case import KernelCase
from tbt_compile.bench.kernel_worker import timed
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tools.standalone import random_linear

WORD = 64
LIMIT = 1.3
TURNS = 5


def prepare(pair: str, m: int, n: int, k: int, spec: TargetSpec):
    """Compile a random layer.

    Args:
        pair: "activation*weight" encodings.
        m, n, k: rows, outputs and inputs.
        spec: CPU to compile for.

    Returns:
        A function that runs the layer once.
    """
    return random_linear(KernelCase(pair, m, n, k).spec(spec.isa), spec, m)[0]


def measure(pair: str, m: int, n: int, k: int, spec: TargetSpec) -> dict:
    """Time a shape and the next larger one with multiples of the tile.

    Args:
        pair, m, n, k, spec: as for `prepare`.

    Returns:
        The shape, the medians of both in microseconds, and their ratio.
    """
    block = spec.isa.block
    full_n, full_k = -(-n // block) * block, -(-k // WORD) * WORD
    calls = (prepare(pair, m, n, k, spec), prepare(pair, m, full_n, full_k, spec))
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        for call, kept in zip(calls, samples, strict=True):
            kept.extend(timed(call, 0.004))
    own, full = (1e6 * median(kept) for kept in samples)
    return {"operator": pair, "m": m, "n": n, "k": k, "us": own, "full_us": full, "ratio": own / full}


def draw(rows: list[dict], title: str, path: Path) -> None:
    """Plot the ratio over the work, with one colour per operator.

    Args:
        rows: from `measure`.
        title: of the figure.
        path: of the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for pair in dict.fromkeys(row["operator"] for row in rows):
        own = [row for row in rows if row["operator"] == pair]
        axes.plot(
            [row["n"] * row["k"] * row["m"] for row in own], [row["ratio"] for row in own], ".", label=pair
        )
    axes.axhline(LIMIT, color="grey", linewidth=0.8, linestyle="--")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("multiplications")
    axes.set_ylabel("time against the next larger multiple of the tile")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the worst shapes, and write all if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--operators", default="binary*binary,ternary*ternary,int8*ternary", help="comma-separated"
    )
    parser.add_argument("--rows", default="1,16", help="values of M, comma-separated")
    parser.add_argument("--shapes", type=int, default=40, help="random shapes per operator and M")
    parser.add_argument("--most", type=int, default=4096, help="largest N and K")
    parser.add_argument("--target", default="host", help="CPU to compile for")
    parser.add_argument("--seed", type=int, default=0, help="of the shapes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them to this file")
    arguments = parser.parse_args()
    spec = parse_target(arguments.target)
    rng = np.random.default_rng(arguments.seed)
    rows = []
    for pair in arguments.operators.split(","):
        for m in map(int, arguments.rows.split(",")):
            # Log-uniform: as many small sizes as large ones.
            sizes = np.exp(rng.uniform(0, np.log(arguments.most), (arguments.shapes, 2))).round().astype(int)
            for n, k in sizes:
                rows.append(measure(pair, m, int(n), int(k), spec))
    worst = sorted(rows, key=lambda row: -row["ratio"])[:12]
    for row in worst:
        print("{operator:18s} {m}x{n}x{k}: {us:.2f} us against {full_us:.2f} us, {ratio:.2f}x".format(**row))
    over = [row for row in rows if row["ratio"] > LIMIT]
    print(
        f"{len(rows)} shapes, {len(over)} above {LIMIT}x, median {median(row['ratio'] for row in rows):.2f}x"
    )
    machine = conditions()
    if arguments.json:
        arguments.json.write_text(json.dumps({"conditions": machine, "rows": rows}, indent=1))
    if arguments.plot:
        draw(rows, f"{machine['cpu']}, built for {spec.mcpu}, 1 thread", arguments.plot)


if __name__ == "__main__":
    main()
