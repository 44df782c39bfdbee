"""The worker process of one row: builds the model, or loads it and generates on request.

    python -m tbt_compile.bench.worker build < job.json
    python -m tbt_compile.bench.worker serve < job.json, then one number of tokens per line
    python -m tbt_compile.bench.worker profile REPEATS < job.json

Answers are JSON, one line each, on standard output. Output of libraries goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from tbt_compile.bench.engines import get_engine
from tbt_compile.bench.job import Job


def main() -> None:
    """Read the job from the first line of standard input and do it."""
    with reserve_stdout() as answers:
        _work(answers)


def _work(answers: TextIO) -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    engine = get_engine(job.engine)
    if sys.argv[1:] == ["build"]:
        engine.build(job)
        return
    start = time.perf_counter()
    runner = engine.load(job)
    load_seconds = time.perf_counter() - start
    if sys.argv[1] == "profile":
        answer(answers, _steps(runner, job.new_tokens, int(sys.argv[2])))
        return
    gc.collect()
    _reset_peak()
    runner.generate(2)
    answer(answers, {"size_bytes": runner.size_bytes, "load_seconds": load_seconds})
    for line in sys.stdin:
        count = int(line)
        start, cpu_start = time.perf_counter(), time.process_time()
        runner.generate(count)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        answer(answers, {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": _peak_bytes()})


def _steps(runner: Any, tokens: int, repeats: int) -> dict[str, Any]:
    """Median nanoseconds of a run: each kernel of each unit, and "outside" for the rest."""
    runner.generate(tokens)
    runs: list[dict[str, Any]] = []
    for _ in range(repeats):
        before, start = runner.model.times(), time.perf_counter_ns()
        runner.generate(tokens)
        passed, after = time.perf_counter_ns() - start, runner.model.times()
        run = {
            unit: [now - then for (_, now), (_, then) in zip(after[unit], before[unit], strict=True)]
            for unit in after
        }
        runs.append(run | {"outside": [passed - sum(map(sum, run.values()))]})
    middle = {
        unit: [median(times) for times in zip(*(run[unit] for run in runs), strict=True)] for unit in runs[0]
    }
    named = {unit: list(zip((name for name, _ in after[unit]), middle[unit], strict=True)) for unit in after}
    return named | {"outside": middle["outside"][0]}


def reserve_stdout() -> TextIO:
    """Reserve standard output for answers and redirect everything else to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer(answers: TextIO, message: dict[str, Any]) -> None:
    """Write a message as one line of JSON."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _reset_peak() -> None:
    # Excludes the peak of loading, when some engines hold the model twice.
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024


if __name__ == "__main__":
    main()
