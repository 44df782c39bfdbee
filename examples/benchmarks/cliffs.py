"""Performance cliffs of linear layers: time over random sizes, most not multiples of the tile.

    python examples/benchmarks/cliffs.py --json out.json --plot cliffs.png

Every random shape is compared with three others, all measured in turns:

*edge*   the next larger shape whose N and K are multiples of the tile. It does at least as much work, so a
         ratio well above 1 is time lost at the edges.
*step*   the shapes with N a sixth smaller and a fifth larger, in time per byte of packed weights, against the
         better one. A ratio well above 1 is a size at which or from which a kernel is slower.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.kernel_case import DEFAULT_OPERATORS, KernelCase
from tbt_compile.bench.kernel_worker import timed
from tbt_compile.codegen.kernels.linear.linear import linear
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tools.standalone import bound, compile_kernel, linear_arrays

WORD = 64
LIMIT = 1.3
STEP = 1.2
RATIOS = {
    "edge": "time against the next larger multiple of the tile",
    "step": "time per byte against the better neighbour",
}
TURNS = 5
SECONDS = 0.004


@dataclass(frozen=True)
class Layer:
    """A compiled random layer.

    Attributes:
        calls: by M, a function that runs it once.
        size: of its packed weights, in bytes.
    """

    calls: dict[int, Callable[[], None]]
    size: int


def prepare(pair: str, rows: list[int], n: int, k: int, spec: TargetSpec) -> Layer:
    """Compile a random layer.

    Args:
        pair: "activation*weight" encodings.
        rows: the values of M.
        n, k: outputs and inputs.
        spec: CPU to compile for.
    """
    layer = KernelCase(pair, 1, n, k).spec(spec.isa)
    kernel = compile_kernel(linear(layer), spec)
    # Packing takes longer than measuring: once, for the most rows.
    _, (x, *constants, y) = linear_arrays(layer, max(rows))
    calls = {m: bound(kernel, [x[:m], *constants, y[:m]]) for m in rows}
    return Layer(calls, constants[1].nbytes)


def measure(pair: str, rows: list[int], n: int, k: int, spec: TargetSpec) -> list[dict]:
    """Time a shape, the next larger one with multiples of the tile, and two neighbours.

    Args:
        pair, rows, n, k, spec: as for `prepare`.

    Returns:
        For each M, the shape, the medians in microseconds, and the two ratios.
    """
    block = spec.isa.block
    whole = -(-n // block) * block, -(-k // WORD) * WORD
    smaller, larger = max(1, round(n / STEP)), round(n * STEP)
    layers = [prepare(pair, rows, *shape, spec) for shape in ((n, k), whole, (smaller, k), (larger, k))]
    found = []
    for m in rows:
        samples: list[list[float]] = [[] for _ in layers]
        for _ in range(TURNS):
            for layer, kept in zip(layers, samples, strict=True):
                kept.extend(timed(layer.calls[m], SECONDS))
        us = [1e6 * median(kept) for kept in samples]
        own, *_, before, after = (time / layer.size for time, layer in zip(us, layers, strict=True))
        found.append(
            {"operator": pair, "m": m, "n": n, "k": k, "us": us[0], "whole_us": us[1]}
            | {"neighbours_us": us[2:], "edge": us[0] / us[1], "step": own / min(before, after)}
        )
    return found


def draw(rows: list[dict], title: str, path: Path) -> None:
    """Plot the ratios over the work, with one colour per operator.

    Args:
        rows: from `measure`.
        title: of the figure.
        path: of the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    both = figure.subplots(2, sharex=True)
    for pair in dict.fromkeys(row["operator"] for row in rows):
        own = [row for row in rows if row["operator"] == pair]
        work = [row["n"] * row["k"] * row["m"] for row in own]
        for axes, ratio in zip(both, RATIOS, strict=True):
            axes.plot(work, [row[ratio] for row in own], ".", label=pair)
    for axes, label in zip(both, RATIOS.values(), strict=True):
        axes.axhline(LIMIT, color="grey", linewidth=0.8, linestyle="--")
        axes.axhline(1.0, color="grey", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_ylabel(label)
    both[1].set_xlabel("multiplications")
    both[0].set_title(title, fontsize=10)
    both[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the worst shapes, and write all if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", default=",".join(DEFAULT_OPERATORS), help="comma-separated")
    parser.add_argument("--rows", default="1,4,16", help="values of M, comma-separated")
    parser.add_argument("--shapes", type=int, default=40, help="random shapes per operator")
    parser.add_argument("--most", default="65536,4096", help="largest N and K")
    parser.add_argument("--target", default="host", help="CPU to compile for")
    parser.add_argument("--seed", type=int, default=0, help="of the shapes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them to this file")
    arguments = parser.parse_args()
    spec = parse_target(arguments.target)
    rng = np.random.default_rng(arguments.seed)
    most = np.log([int(size) for size in arguments.most.split(",")])
    values = [int(m) for m in arguments.rows.split(",")]
    rows = []
    for pair in arguments.operators.split(","):
        # Log-uniform: as many small sizes as large ones.
        sizes = np.exp(rng.uniform(0, most, (arguments.shapes, 2))).round().astype(int)
        for index, (n, k) in enumerate(sizes):
            rows += measure(pair, values, int(n), int(k), spec)
            print(f"\r{pair} {index + 1} of {len(sizes)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    for ratio in RATIOS:
        for row in sorted(rows, key=lambda row: -row[ratio])[:12]:
            print(
                f"{ratio} {row[ratio]:.2f}x  {row['operator']:18s} {row['m']}x{row['n']}x{row['k']}: ", end=""
            )
            print(f"{row['us']:.2f} us, whole {row['whole_us']:.2f}, ", end="")
            print("neighbours {:.2f} and {:.2f}".format(*row["neighbours_us"]))
        over = sum(row[ratio] > LIMIT for row in rows)
        typical = median(row[ratio] for row in rows)
        print(f"{ratio}: {len(rows)} shapes, {over} above {LIMIT}x, median {typical:.2f}x\n")
    machine = conditions()
    if arguments.json:
        arguments.json.write_text(json.dumps({"conditions": machine, "rows": rows}, indent=1))
    if arguments.plot:
        draw(rows, f"{machine['cpu']}, built for {spec.mcpu}, 1 thread", arguments.plot)


if __name__ == "__main__":
    main()
