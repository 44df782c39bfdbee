"""The number of threads that kernels run on.

TVM keeps a thread pool per Python thread. TVM_NUM_THREADS, else OMP_NUM_THREADS, sets the size of a pool when
it is created. Without either, TVM uses half of the CPUs of an x86 machine, hyperthreads or not; and it pins
threads to CPUs, where two processes compete for the same cores. This module sets better defaults before the
first pool is created, but keeps variables that the user has set.

It does not import TVM: the variables must be set before TVM is loaded.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from numbers import Integral
from pathlib import Path

from tbt_compile.errors import TargetError

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")


def set_defaults() -> None:
    """Set the defaults: a thread per CPU that this process may use, without pinning."""
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["TVM_NUM_THREADS"] = str(len(_cpus()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def cores() -> int:
    """The number of physical cores that this process may use."""
    return len({_siblings(cpu) for cpu in _cpus()})


def limit() -> tuple[int, str]:
    """The maximum size of a pool, and the environment variable that sets it.

    Raises:
        TargetError: the variable is not a positive number.
    """
    set_defaults()
    name = next(name for name in _VARIABLES if name in os.environ)
    first = os.environ[name].split(",")[0]  # OMP_NUM_THREADS may list a number per nesting level
    if not first.isdigit() or first == "0":
        raise TargetError(
            f"the environment variable {name} is {os.environ[name]!r}: expected a number from 1"
        )
    return int(first), name


def choose(count: int | None) -> int:
    """The number of threads to use: `count`, or by default one per core.

    Raises:
        TargetError: `count` is out of range or no number, or the environment variable is not positive.
    """
    maximum, variable = limit()
    if count is None:
        return min(cores(), maximum)
    if not isinstance(count, Integral) or not 1 <= count <= maximum:
        raise TargetError(
            f"{count!r} threads: expected 1 to {maximum}; the environment variable {variable}, read when the "
            "process starts, sets the maximum"
        )
    return count


def _cpus() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS and Windows do not tell Python more


@cache
def _siblings(cpu: int) -> str:
    """The CPUs that share a core with `cpu`, as text; `cpu` itself if the machine does not report them."""
    path = Path(_SIBLINGS.format(cpu))
    return path.read_text() if path.exists() else str(cpu)
