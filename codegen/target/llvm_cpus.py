"""What the LLVM inside TVM knows about CPUs: names, validity, features, and the CPU of this machine.

TVM's compiler is loaded at the first question: a machine that only runs a compiled folder asks none.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def features(cpu: str, triple: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """Names of the features of a CPU.

    Args:
        cpu: LLVM's name.
        triple: LLVM's triple.
        mattr: features switched on ("+name") or off ("-name").
    """
    target = _target({"mtriple": triple, "mcpu": cpu, "mattr": list(mattr)})
    return frozenset(str(name) for name in _llvm().llvm_get_cpu_features(target))


@cache
def listed_names(triple: str) -> frozenset[str]:
    """Names of the CPUs of `triple`'s architecture (LLVM leaves some that it accepts out of this list)."""
    return frozenset(str(name) for name in _llvm().llvm_get_cpu_archlist(_target({"mtriple": triple})))


@cache
def is_known(cpu: str, triple: str) -> bool:
    """Whether LLVM accepts `cpu` for `triple`. 32-bit x86 processors are not counted."""
    if not _llvm().llvm_is_valid_cpu(cpu, triple):
        return False
    return not triple.startswith("x86_64") or "64bit" in features(cpu, triple)


def system_name() -> str:
    """LLVM's name of this machine's CPU."""
    return str(_llvm().llvm_get_system_cpu())


def _llvm() -> Any:
    from tvm.target import codegen

    return codegen


def _target(options: dict[str, Any]) -> Any:
    from tvm.target import Target

    return Target({"kind": "llvm", **options})
