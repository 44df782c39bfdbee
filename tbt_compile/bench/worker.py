"""The process of one row: builds, or loads once and then generates on request.

    python -m tbt_compile.bench.worker build < job.json
    python -m tbt_compile.bench.worker serve < job.json, then one number of tokens per line

Answers are JSON, one line each, on standard output; what libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tbt_compile.bench.engines import get_engine
from tbt_compile.bench.job import Job


def main() -> None:
    """Read the job from the first line of standard input and do it."""
    with own_standard_output() as answers:
        _work(answers)


def _work(answers: TextIO) -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    engine = get_engine(job.engine)
    if sys.argv[1:] == ["build"]:
        engine.build(job)
        return
    runner = engine.load(job)
    gc.collect()
    _reset_peak()
    runner.generate(2)
    answer(answers, {"size_bytes": runner.size_bytes})
    for line in sys.stdin:
        count = int(line)
        start, cpu_start = time.perf_counter(), time.process_time()
        runner.generate(count)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        answer(answers, {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": _peak_bytes()})


def own_standard_output() -> TextIO:
    """Keep the real standard output for answers; what else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer(answers: TextIO, message: dict[str, Any]) -> None:
    """Write one line of JSON."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _reset_peak() -> None:
    # Forget the peak of loading: some engines hold the model twice while they convert it.
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024


if __name__ == "__main__":
    main()
