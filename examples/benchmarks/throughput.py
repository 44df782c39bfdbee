"""Throughput in texts per second, by number of workers and of threads per worker.

    python examples/benchmarks/throughput.py compiled
    python examples/benchmarks/throughput.py compiled --workers 1 2 4 --threads 1 2 --json out.json

Sources are random tokens of random lengths. All combinations take turns, and their outputs have to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np


def measure(
    model: Any, sources: list[list[int]], ways: list[tuple[int, int]], repeats: int, **settings: Any
) -> list[dict[str, float]]:
    """Measure throughput, after a warm-up round.

    Args:
        model: a compiled model.
        sources: token ids.
        ways: combinations of (workers, threads).
        repeats: rounds.
        settings: of `generate_many`.

    Returns:
        Workers, threads and median texts per second of each combination.

    Raises:
        RuntimeError: two combinations generate different tokens.
    """
    rates: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    expected = None
    for _ in range(repeats + 1):
        for way in ways:
            start = time.perf_counter()
            found = model.generate_many(sources, num_workers=way[0], num_threads=way[1], **settings)
            rates[way].append(len(sources) / (time.perf_counter() - start))
            expected = expected or found
            if not all(map(np.array_equal, found, expected)):
                raise RuntimeError(f"{way[0]} workers with {way[1]} threads generated different tokens")
    return [
        {"workers": workers, "threads": threads, "texts_per_second": statistics.median(values[1:])}
        for (workers, threads), values in rates.items()
    ]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("folder", help="folder that `tbt lower` wrote")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, 2, cpus}), help="concurrent batches"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads per worker")
    parser.add_argument("--texts", type=int, default=64, help="number of sources")
    parser.add_argument("--source-tokens", type=int, default=64, help="maximum tokens of a source")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to generate per text")
    parser.add_argument("--num-beams", type=int, default=1, help="beams of the search; 1 is greedy")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per batch")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; figures are medians")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    from tbt_compile.runtime.without_torch import hide_torch

    hide_torch()
    import tbt_compile

    model: Any = tbt_compile.load(options.folder)
    random = np.random.default_rng(0)
    lengths = random.integers(1, options.source_tokens + 1, options.texts)
    sources = [random.integers(3, model.description["vocabulary"], length).tolist() for length in lengths]
    ways = [(workers, threads) for workers in options.workers for threads in options.threads]
    rows = measure(
        model,
        sources,
        ways,
        options.repeats,
        batch_size=options.batch_size,
        num_beams=options.num_beams,
        min_new_tokens=options.new_tokens,
        max_new_tokens=options.new_tokens,
    )
    print(f"{cpus} CPUs\nworkers  threads  texts/s")
    for row in rows:
        print(f"{row['workers']:7d} {row['threads']:8d} {row['texts_per_second']:8.1f}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
