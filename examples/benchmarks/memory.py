"""Footprint of a compiled folder: disk space, time to load, and memory.

    python examples/benchmarks/memory.py compiled --json out.json

Every measurement runs in a separate process, like `tbt run`. Figures are medians, with the folder in the
system's page cache. *start* is the time from starting Python until the model is ready. Memory is Linux's
VmRSS, and its peak VmHWM; file pages that other processes share count in full.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

MIB = 2**20
FIGURES = {
    "start_s": "s from starting Python until the model is ready, of which",
    "numpy_s": "s importing NumPy",
    "tvm_s": "s importing TVM's runtime",
    "load_s": "s checking and mapping the folder",
    "cpu_s": "s of CPU time until the model is ready, less affected by other programs",
    "generate_s": "s for the first text",
    "tvm_mib": "MiB with TVM's runtime and no model",
    "loaded_mib": "MiB with the model loaded",
    "peak_mib": "MiB peak during generation",
    "copied_mib": "MiB of them not backed by files",
}


def memory(name: str) -> float:
    """A field of this process's /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


def work(folder: str, source_length: int, new_tokens: int) -> None:
    """The body of the measured process: prints "ready" once the model is loaded, then its figures.

    Args:
        folder: of the compiled model.
        source_length: tokens of the source text.
        new_tokens: tokens to generate.
    """
    start = time.perf_counter()
    import numpy as np

    numpy_there = time.perf_counter()
    import tbt_compile.runtime.tvm_runtime

    tvm_there = time.perf_counter()
    figures = {
        "numpy_s": numpy_there - start,
        "tvm_s": tvm_there - numpy_there,
        "tvm_mib": memory("VmRSS"),
    }
    tvm_there = time.perf_counter()
    model = tbt_compile.load(folder, num_threads=1)
    figures |= {"load_s": time.perf_counter() - tvm_there, "loaded_mib": memory("VmRSS")}
    figures |= {"cpu_s": time.process_time()}
    print("ready", flush=True)
    ids = 4 + np.arange(source_length)[None] % (model.description["vocabulary"] - 4)
    start = time.perf_counter()
    model.generate(ids, num_beams=1, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
    figures |= {"generate_s": time.perf_counter() - start}
    figures |= {"peak_mib": memory("VmHWM"), "copied_mib": memory("RssAnon")}
    print(json.dumps(figures), flush=True)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run and measure one process."""
    command = [sys.executable, __file__, str(arguments.folder), "--once"]
    command += [f"--source-length={arguments.source_length}", f"--new-tokens={arguments.new_tokens}"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline().strip()
        figures = {"start_s": time.perf_counter() - start}
        last = process.stdout.readline()
    if ready != "ready" or process.returncode != 0:
        sys.exit(f"{arguments.folder} cannot be measured: see the error above")
    return {**figures, **json.loads(last)}


def main() -> None:
    """Measure a folder several times and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that `tbt lower` wrote, for this machine")
    parser.add_argument("--source-length", type=int, default=128, help="tokens of the source text")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens to generate, greedily")
    parser.add_argument("--repeats", type=int, default=5, help="processes to measure")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        work(str(arguments.folder), arguments.source_length, arguments.new_tokens)
        return
    runs = [measure(arguments) for _ in range(arguments.repeats)]
    sizes = {file.name: file.stat().st_size for file in arguments.folder.iterdir() if file.is_file()}
    medians = {name: median(run[name] for run in runs) for name in FIGURES}
    files = ", ".join(f"{name} {size / MIB:.1f}" for name, size in sorted(sizes.items()))
    print(f"{sum(sizes.values()) / MIB:9.1f} MiB on disk: {files}")
    for name, text in FIGURES.items():
        print(f"{medians[name]:9.{2 if name.endswith('_s') else 1}f} {text}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"bytes": sizes, "medians": medians, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
