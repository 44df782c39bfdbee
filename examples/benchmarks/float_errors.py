"""Errors of the float functions against float64, in units in the last place and absolute.

    python examples/benchmarks/float_errors.py --json errors.json

Each function is evaluated on a grid over its range and on random floats of all magnitudes in it. A unit in
the last place is that of the exact result, rounded to float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbt_compile.codegen.kernels.float_ops.activations import ActivationSpec, activation
from tbt_compile.codegen.target.host import host_target
from tbt_compile.codegen.tools.standalone import compile_kernel
from tbt_compile.codegen.tvm_api import tvm

Function = Callable[[torch.Tensor], torch.Tensor]
# The exact function, and the range on which it is compared.
FUNCTIONS: dict[str, tuple[Function, float, float]] = {
    "exp": (torch.exp, -87.0, 88.0),
    "log": (torch.log, 1e-30, 1e30),
    "sin": (torch.sin, -1e4, 1e4),
    "cos": (torch.cos, -1e4, 1e4),
    "erf": (torch.erf, -4.0, 4.0),
    "tanh": (torch.tanh, -9.0, 9.0),
    "sigmoid": (torch.sigmoid, -80.0, 80.0),
    "silu": (torch.nn.functional.silu, -20.0, 20.0),
    "gelu": (torch.nn.functional.gelu, -5.0, 20.0),
    "gelu_tanh": (lambda x: torch.nn.functional.gelu(x, approximate="tanh"), -5.0, 20.0),
}
POINTS = 1_000_000


def measure(name: str) -> dict[str, Any]:
    """The errors of one function."""
    exact, low, high = FUNCTIONS[name]
    generator = np.random.default_rng(0)
    magnitudes = 10.0 ** generator.uniform(-6, np.log10(high), POINTS) * generator.choice((-1, 1), POINTS)
    x = np.concatenate([np.linspace(low, high, POINTS), np.clip(magnitudes, low, high)]).astype(np.float32)
    target = host_target()
    y = tvm.runtime.tensor(np.zeros((len(x), 1), np.float32))
    compile_kernel(activation(ActivationSpec(name, 1, target.isa)), target)(tvm.runtime.tensor(x[:, None]), y)
    expected = exact(torch.from_numpy(x).double()).numpy()
    error = np.abs(y.numpy()[:, 0] - expected)
    units = error / np.spacing(np.abs(expected).astype(np.float32))
    worst = int(units.argmax())
    return {"function": name, "ulp": units[worst], "at": float(x[worst])} | {
        "median_ulp": float(np.median(units)),
        "absolute": float(error[np.abs(expected) <= 1].max()),
        "relative": float((error / np.maximum(np.abs(expected), 1e-30)).max()),
    }


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    rows = [measure(name) for name in FUNCTIONS]
    print("| function | range | largest error, ulp | at | median, ulp | largest, results within ±1 |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        _, low, high = FUNCTIONS[row["function"]]
        print(f"| {row['function']} | {low:g} to {high:g} | {row['ulp']:.3g} | {row['at']:.3g} | ", end="")
        print(f"{row['median_ulp']:.2f} | {row['absolute']:.2g} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
