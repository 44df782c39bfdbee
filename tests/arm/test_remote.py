"""TVM's RPC server on an emulated AArch64 machine: what `tbt bench --rpc` measures on a board."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from arm.environment import Environment
from arm.kernels import EMULATED
from arm.machine import variables

import tbt_compile
from tbt_compile.bench.engines import compiled
from tbt_compile.bench.generation import BenchSettings
from tbt_compile.bench.job import Job
from tbt_compile.bench.kernels import KernelSettings
from tbt_compile.bench.model_shapes import get_shape, source_ids
from tbt_compile.bench.remote import run_generation, run_kernels

CPU = "cortex-a72"
KEY = "pi4"
COUNT, LENGTH = 4, 12
SERVER = """
from tvm.rpc.server import PopenRPCServerState
print(PopenRPCServerState("127.0.0.1", 9400, 9600, key="pi4", silent=True).port, flush=True)
"""


@pytest.fixture(scope="module")
def address(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on the loopback interface, with TVM and nothing of this package needed."""
    work = tmp_path_factory.mktemp("server")
    with subprocess.Popen(
        [*environment.command(EMULATED[CPU]), "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=work,
        env={**os.environ, **variables(environment, work)},
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        yield f"127.0.0.1:{server.stdout.readline().strip()}"
        os.killpg(server.pid, signal.SIGKILL)  # with the processes of its sessions


def quiet(_text: str, _share: float) -> None:
    """No progress is shown."""


def test_kernels_are_measured_on_the_board(address: str) -> None:
    settings = KernelSettings(("ternary*ternary",), ("1x70x100",), rounds=2, target=CPU)
    (row,) = run_kernels(settings, address, KEY, quiet)["rows"]
    assert 0 < row["us"] < 1e6


def test_generation_on_the_board_writes_what_this_machine_writes(address: str, tmp_path: Path) -> None:
    settings = BenchSettings(
        shape="tiny",
        recipes=("1-1-1",),
        threads=1,
        source_length=LENGTH,
        new_tokens=COUNT,
        repeats=1,
        target=CPU,
    )
    (row,) = run_generation(settings, address, KEY, quiet)["rows"]
    assert row["token_ms"] > 0
    job = Job("tbt", "1-1-1", "tiny", 1, LENGTH, COUNT, "host", str(tmp_path))
    compiled.build(job)
    source = np.array([source_ids(get_shape("tiny"), LENGTH)])
    local = tbt_compile.load(compiled.folder_of(job))
    expected = local.generate(source, min_new_tokens=COUNT, max_new_tokens=COUNT, num_beams=1)
    assert row["tokens"] == expected[0].tolist()
