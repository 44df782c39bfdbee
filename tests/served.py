"""`tbt serve` as a process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUN = [sys.executable, "-c", "from tbt_compile.cli import main; main()", "serve"]


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running service and its address; it ends as by Ctrl-C, unless it has ended before.

    Args:
        folder: that is served.
        options: of the command.
    """
    command = [*RUN, str(folder), "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"at (http://127.0.0.1:\d+)", line):
                break
        else:
            pytest.fail("the service did not start")
        try:
            yield process, found[1]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 130)
