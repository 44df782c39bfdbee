"""How many threads kernels run on.

TVM keeps one pool of threads per Python thread. TVM_NUM_THREADS, else OMP_NUM_THREADS, sets a pool's size
when it is made. Without either, TVM takes half of an x86 machine's CPUs, whether or not two of them share a
core; and it pins threads to CPUs, so that two processes compete for the same ones. Both are decided here,
before the first pool is made; variables that the user has set are kept.

Nothing here imports TVM: the variables have to be set before it is loaded.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tbt_compile.errors import TargetError

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")


def set_defaults() -> None:
    """Allow pools a thread for every CPU that this process may use, and pin none."""
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["TVM_NUM_THREADS"] = str(len(_cpus()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def cores() -> int:
    """The number of cores that this process may use; CPUs that share one count once."""
    return len({_siblings(cpu) for cpu in _cpus()})


def limit() -> tuple[int, str]:
    """The largest size of a pool, and the environment variable that sets it.

    Raises:
        TargetError: the variable holds no positive number.
    """
    set_defaults()
    name = next(name for name in _VARIABLES if name in os.environ)
    first = os.environ[name].split(",")[0]  # OpenMP's may have one number per level
    if not first.isdigit() or first == "0":
        raise TargetError(
            f"the environment variable {name} is {os.environ[name]!r}: expected a number from 1"
        )
    return int(first), name


def choose(count: int | None) -> int:
    """The number of threads to use: `count`, or one per core.

    Raises:
        TargetError: `count` is out of range, or the environment variable holds no positive number.
    """
    most, variable = limit()
    if count is None:
        return min(cores(), most)
    if not 1 <= count <= most:
        raise TargetError(
            f"{count} threads: expected 1 to {most}; the environment variable {variable}, read when the "
            "process starts, sets the most"
        )
    return count


def _cpus() -> set[int]:
    return os.sched_getaffinity(0)


@cache
def _siblings(cpu: int) -> str:
    """The CPUs that share a core with `cpu`, as text; itself where the machine does not tell."""
    path = Path(_SIBLINGS.format(cpu))
    return path.read_text() if path.exists() else str(cpu)
