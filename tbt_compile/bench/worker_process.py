"""The worker processes of benchmarks, from the side of the parent process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from tbt_compile.bench.job import Job
from tbt_compile.errors import TbtError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS")


class WorkerError(TbtError):
    """A worker process failed; the message ends with the last lines that it printed."""


def build(job: Job) -> None:
    """Run the job's `build` in a separate process, which leaves no trace in the measured one."""
    _run_once(job, "preparing", "build")


def measure_steps(job: Job, repeats: int) -> dict[str, Any]:
    """Profile a run in a separate process.

    Args:
        job: compiled with `clock`.
        repeats: runs; figures are medians.

    Returns:
        Nanoseconds of one run: names and times of the kernels by unit, and "outside" for the rest.
    """
    measured: dict[str, Any] = json.loads(_run_once(job, "measuring", "profile", str(repeats)))
    return measured


def _run_once(job: Job, doing: str, *arguments: str) -> str:
    """Run a worker that does one thing and ends; returns its standard output."""
    done = subprocess.run(
        [*_command("worker"), *arguments],
        input=json.dumps(job.to_dict()) + "\n",
        capture_output=True,
        text=True,
        env=_environment(job.threads),
        check=False,
    )
    if done.returncode != 0:
        raise WorkerError(f"{doing} {job.name} failed: {_why(done.returncode, done.stderr)}")
    return done.stdout


class WorkerProcess:
    """A process that answers each line of JSON with another.

    Args:
        name: of what it measures, for error messages.
        module: of `tbt_compile.bench`, to run.
        arguments: of its command line.
        threads: for every library in it.
    """

    def __init__(self, name: str, module: str, *arguments: str, threads: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            [*_command(module), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(threads),
        )

    def ask(self, question: Any) -> dict[str, Any]:
        """Send a question and wait for the answer.

        Raises:
            WorkerError: the process ended without an answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.communicate()
            self._errors.seek(0)
            why = _why(self._process.returncode, self._errors.read())
            self._errors.close()
            raise WorkerError(f"measuring {self.name} failed: {why}")
        answered: dict[str, Any] = json.loads(answer)
        return answered

    def close(self) -> None:
        """End the process."""
        if not self._errors.closed:
            self._process.communicate()
            self._errors.close()


class Worker(WorkerProcess):
    """A process with one loaded engine, which generates on request.

    Attributes:
        size_bytes: of the model on disk.
        load_seconds: to load it.
        peak_bytes: peak memory so far.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job.name, "worker", "serve", threads=job.threads)
        loaded = self.ask(job.to_dict())
        self.size_bytes, self.load_seconds = int(loaded["size_bytes"]), float(loaded["load_seconds"])
        self.peak_bytes = 0

    def measure(self, count: int) -> tuple[float, float]:
        """Wall-clock and CPU seconds to encode the source texts and generate `count` tokens for each."""
        answer = self.ask(count)
        self.peak_bytes = int(answer["peak_bytes"])
        return float(answer["seconds"]), float(answer["cpu_seconds"])


def _why(code: int, said: str) -> str:
    """How a worker ended, and the last lines that it printed."""
    last = said.strip()[-2000:]
    if code != -signal.SIGILL:
        return f"killed by {signal.Signals(-code).name}. {last}" if code < 0 else last
    return f"killed by SIGILL: a package in it has an instruction that fails on this CPU. {last}"


def _command(module: str) -> list[str]:
    return [sys.executable, "-m", f"tbt_compile.bench.{module}"]


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
