"""Queries to the LLVM inside TVM about CPUs: names, validity, features, and the host's CPU.

TVM's compiler is imported on the first query: a machine that only runs compiled folders never loads it.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def features(cpu: str, triple: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """The features of a CPU, as LLVM names them.

    Args:
        cpu: LLVM's name.
        triple: LLVM's triple.
        mattr: features switched on ("+name") or off ("-name").

    Returns:
        The names of all features that are on.
    """
    target = _target({"mtriple": triple, "mcpu": cpu, "mattr": list(mattr)})
    return frozenset(str(name) for name in _llvm().llvm_get_cpu_features(target))


@cache
def listed_names(triple: str) -> frozenset[str]:
    """The CPUs that LLVM lists for the architecture of `triple`; it accepts a few more."""
    return frozenset(str(name) for name in _llvm().llvm_get_cpu_archlist(_target({"mtriple": triple})))


@cache
def is_known(cpu: str, triple: str) -> bool:
    """Whether LLVM accepts `cpu` for `triple`; 32-bit x86 CPUs are excluded."""
    if not cpu.isascii() or not _llvm().llvm_is_valid_cpu(cpu, triple):
        return False
    return not triple.startswith("x86_64") or "64bit" in features(cpu, triple)


def system_name() -> str:
    """LLVM's name of the host's CPU."""
    return str(_llvm().llvm_get_system_cpu())


def _llvm() -> Any:
    from tvm.target import codegen

    return codegen


def _target(options: dict[str, Any]) -> Any:
    from tvm.target import Target

    return Target({"kind": "llvm", **options})
