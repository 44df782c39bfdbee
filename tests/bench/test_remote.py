"""Measuring through an RPC server: on this machine, and with TBT's own numbers as the judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tbt_compile
from tbt_compile.bench.engines import compiled
from tbt_compile.bench.generation import BenchSettings
from tbt_compile.bench.job import Job
from tbt_compile.bench.kernels import KernelSettings
from tbt_compile.bench.model_shapes import get_shape, source_ids
from tbt_compile.bench.remote import run_generation, run_kernels
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tools.remote import Board
from tbt_compile.errors import TargetError

KEY = "board"
SERVER = """
from tvm.rpc.server import PopenRPCServerState
print(PopenRPCServerState("127.0.0.1", 9190, 9390, key="board", silent=True).port, flush=True)
"""
COUNT, LENGTH = 5, 20


def quiet(_text: str, _share: float) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server on this machine."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        assert server.stdout is not None
        yield f"127.0.0.1:{server.stdout.readline().strip()}"
        os.killpg(server.pid, signal.SIGKILL)  # with the processes of its sessions


def test_generation_is_that_of_the_local_model(
    address: str, compiled_job: Job, build: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "build", build)
    target = str(parse_target("host"))
    settings = BenchSettings(
        shape="tiny",
        recipes=("1-1-8",),
        threads=1,
        source_length=LENGTH,
        new_tokens=COUNT,
        repeats=2,
        target=target,
    )
    result = run_generation(settings, address, KEY, quiet)
    (row,) = result["rows"]
    assert 0 < row["token_ms"] < 1000
    assert 0 < row["encoder_ms"] < 1000
    local = tbt_compile.load(compiled.folder_of(compiled_job))
    source = np.array([source_ids(get_shape("tiny"), LENGTH)])
    expected = local.generate(source, min_new_tokens=COUNT, max_new_tokens=COUNT, num_beams=1)
    assert row["tokens"] == expected[0].tolist()


def test_kernels(address: str) -> None:
    target = str(parse_target("host"))
    settings = KernelSettings(("ternary*ternary", "int8*binary"), ("2x70x100",), rounds=2, target=target)
    result = run_kernels(settings, address, KEY, quiet)
    assert [row["operator"] for row in result["rows"]] == ["ternary*ternary", "int8*binary"]
    assert all(0 < row["us"] < 1e5 for row in result["rows"])
    assert result["board"]["address"] == address


def test_what_is_wrong_is_named(address: str) -> None:
    with pytest.raises(TargetError, match=r"no RPC server with the key 'other' answers at .* --key other`"):
        Board(address, "other")
    with pytest.raises(TargetError, match=r"no RPC server .* at 127.0.0.1:1 .*rpc_server"):
        Board("127.0.0.1:1", KEY)
    with pytest.raises(TargetError, match="expected HOST:PORT"):
        Board("raspberrypi", KEY)
    with pytest.raises(TargetError, match="--target cortex-a72"):
        run_kernels(KernelSettings(), address, KEY, quiet)
