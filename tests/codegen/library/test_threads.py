"""How many threads kernels get."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tbt_compile.codegen.library import threads
from tbt_compile.errors import TargetError

PROGRAM = """
import tvm_ffi
from tbt_compile.runtime.tvm_runtime import set_threads
count = tvm_ffi.get_global_func("runtime.NumThreads")
for wanted in (None, 1, 2):
    set_threads(wanted)
    print(count())
"""


def run(**variables: str) -> list[int]:
    """What a pool has by default, and when one and two threads are asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | variables, capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process may use one CPU only")
def test_a_pool_has_a_thread_per_core_and_follows_what_is_asked() -> None:
    assert run() == [threads.cores(), 1, 2]


def test_the_user_s_variables_are_kept() -> None:
    assert run(TVM_NUM_THREADS="3") == [min(threads.cores(), 3), 1, 2]
    assert run(OMP_NUM_THREADS="2") == [min(threads.cores(), 2), 1, 2]


def test_cores_that_share_siblings_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "_siblings", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    assert threads.cores() == 2


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_tell_the_number_of_cpus_only(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.sys, "platform", platform)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 6)
    assert len(threads._cpus()) == 6


@pytest.mark.parametrize("count", (0, 5, "a", 1.5))
def test_an_impossible_number_is_refused(monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "4")
    with pytest.raises(TargetError, match=f"{count!r} threads: expected 1 to 4.*TVM_NUM_THREADS"):
        threads.choose(count)


def test_a_variable_without_a_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads.limit() == (3, "OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(TargetError, match="OMP_NUM_THREADS is 'many': expected a number"):
        threads.choose(None)


def test_numbers_of_numpy_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "4")
    assert threads.choose(np.int64(3)) == 3
