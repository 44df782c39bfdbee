"""Starting, asking and ending the worker process of one row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from tbt_compile.bench.job import Job
from tbt_compile.errors import TbtError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS")


class WorkerError(TbtError):
    """A row's process failed; the message ends with the last lines that it printed."""


def build(job: Job) -> None:
    """Run the job's `build` in a process that ends with it, so that it cannot disturb what is measured."""
    done = subprocess.run(
        _command("build"),
        input=json.dumps(job.to_dict()) + "\n",
        capture_output=True,
        text=True,
        env=_environment(job),
        check=False,
    )
    if done.returncode != 0:
        raise WorkerError(f"preparing {job.engine} {job.recipe} failed: {done.stderr.strip()[-2000:]}")


class Worker:
    """A process that has loaded one engine and generates when asked."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            _command("serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(job),
        )
        self.size_bytes = int(self._ask(json.dumps(job.to_dict()))["size_bytes"])
        self.peak_bytes = 0

    def measure(self, count: int) -> tuple[float, float]:
        """Wall-clock and CPU seconds that it takes to read the source text and generate `count` tokens."""
        answer = self._ask(str(count))
        self.peak_bytes = int(answer["peak_bytes"])
        return float(answer["seconds"]), float(answer["cpu_seconds"])

    def close(self) -> None:
        """End the process."""
        if not self._errors.closed:
            self._process.communicate()
            self._errors.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.communicate()
            self._errors.seek(0)
            said = self._errors.read().strip()[-2000:]
            self._errors.close()
            raise WorkerError(f"measuring {self.job.engine} {self.job.recipe} failed: {said}")
        answered: dict[str, Any] = json.loads(answer)
        return answered


def _command(mode: str) -> list[str]:
    return [sys.executable, "-m", "tbt_compile.bench.worker", mode]


def _environment(job: Job) -> dict[str, str]:
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(job.threads))}
