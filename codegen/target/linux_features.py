"""The features of a CPU as Linux reports them, under LLVM's names."""

from __future__ import annotations

import ctypes
from pathlib import Path

from tbt_compile.errors import TargetError

# Linux names of x86 features that differ from LLVM's by more than underscores.
_X86_NAMES = {"pni": "sse3", "abm": "lzcnt", "pclmulqdq": "pclmul", "lahf_lm": "sahf", "bmi1": "bmi"}
_X86_NAMES |= {"sse4_1": "sse4.1", "sse4_2": "sse4.2"}
# Bits of AT_HWCAP and AT_HWCAP2, in which Linux reports the features of an AArch64 CPU.
_HWCAP = {"fp-armv8": 0, "neon": 1, "crc": 7, "lse": 8, "fullfp16": 10, "rdm": 12, "jsconv": 13}
_HWCAP |= {"complxnum": 14, "rcpc": 15, "sha3": 17, "dotprod": 20, "sve": 22, "fp16fml": 23, "rcpc-immo": 26}
_HWCAP2 = {"sve2": 1, "i8mm": 13, "bf16": 14, "cssc": 34, "mops": 43, "faminmax": 50}
_AT_HWCAP, _AT_HWCAP2 = 16, 26


def read(arch: str) -> frozenset[str]:
    """The features of this machine's CPU.

    Raises:
        TargetError: /proc/cpuinfo lists no features.
    """
    if arch == "aarch64":
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
        return from_hwcap(getauxval(_AT_HWCAP), getauxval(_AT_HWCAP2))
    return from_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))


def from_hwcap(first: int, second: int) -> frozenset[str]:
    """The features of an AArch64 CPU by the values of AT_HWCAP and AT_HWCAP2."""
    words = ((_HWCAP, first), (_HWCAP2, second))
    return frozenset(name for table, word in words for name, bit in table.items() if word >> bit & 1)


def from_cpuinfo(text: str) -> frozenset[str]:
    """The features of an x86 CPU by /proc/cpuinfo.

    Raises:
        TargetError: there is no list of features.
    """
    for line in text.splitlines():
        if line.startswith("flags"):
            names = line.partition(":")[2].split()
            return frozenset(_X86_NAMES.get(name, name.replace("_", "")) for name in names)
    raise TargetError("/proc/cpuinfo has no flags line: mount /proc of a Linux kernel to run here")
