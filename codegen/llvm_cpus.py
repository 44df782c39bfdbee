"""What the LLVM inside TVM knows about CPUs: names, validity, features, and the CPU of this machine."""

from __future__ import annotations

from functools import cache

from tvm.target import Target
from tvm.target import codegen as _llvm
from tvm_ffi import get_global_func


@cache
def features(cpu: str, triple: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """Names of the features of `cpu` with `mattr` ("+name", "-name") applied."""
    target = Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "mattr": list(mattr)})
    return frozenset(str(name) for name in _llvm.llvm_get_cpu_features(target))


@cache
def listed_names(triple: str) -> frozenset[str]:
    """Names of the CPUs of `triple`'s architecture (LLVM leaves some that it accepts out of this list)."""
    target = Target({"kind": "llvm", "mtriple": triple})
    return frozenset(str(name) for name in _llvm.llvm_get_cpu_archlist(target))


@cache
def is_known(cpu: str, triple: str) -> bool:
    """Whether LLVM accepts `cpu` for `triple`. 32-bit x86 processors are not counted."""
    if not _llvm.llvm_is_valid_cpu(cpu, triple):
        return False
    return not triple.startswith("x86_64") or "64bit" in features(cpu, triple)


def system_name() -> str:
    """LLVM's name of this machine's CPU."""
    return str(_llvm.llvm_get_system_cpu())


def system_x86_features() -> frozenset[str]:
    """Names of the features that an x86 CPU reports by the CPUID instruction, and the system lets it use."""
    seen = get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return frozenset(str(name) for name, on in seen.items() if bool(on))
