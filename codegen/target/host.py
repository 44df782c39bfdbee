"""The host: its CPU and features, and whether code built for a target can run on it."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tbt_compile.codegen.target import llvm_cpus
from tbt_compile.codegen.target.spec import ALIASES, TRIPLES, TargetSpec, known_cpus, target_of
from tbt_compile.errors import TargetError

# Features that compiled code may use. Others (memory keys, monitor/wait, AES ...) are implied by a CPU's name
# but often hidden by virtual machines or missing on a chip, and LLVM never emits them for plain arithmetic:
# LLVM's cortex-a72 has AES, that of the Raspberry Pi 4 has not. (SHA3 is listed for its three-way XOR.)
_X86_NAMES = """
cmov cx16 sahf popcnt lzcnt bmi bmi2 adx movbe fma fma4 xop tbm sse sse2 sse3 ssse3 sse4.1 sse4.2 sse4a
avx avx2 f16c gfni pclmul vpclmulqdq avxvnni avxvnniint8 avxifma avxneconvert
avx512f avx512bw avx512cd avx512dq avx512vl avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512bitalg
avx512vpopcntdq avx512bf16 avx512fp16 avx512vp2intersect
avxvnniint16 avx10.1 avx10.2 egpr push2pop2 ppx ndd ccmp nf zu
"""
_X86 = frozenset(_X86_NAMES.split())
# Linux names of x86 features that differ from LLVM's by more than underscores.
_LINUX_NAMES = {"pni": "sse3", "abm": "lzcnt", "pclmulqdq": "pclmul", "lahf_lm": "sahf", "bmi1": "bmi"}
_LINUX_NAMES |= {"sse4_1": "sse4.1", "sse4_2": "sse4.2"}
# Bits of AT_HWCAP and AT_HWCAP2, in which Linux reports the features of an AArch64 CPU.
_HWCAP = {"fp-armv8": 0, "neon": 1, "crc": 7, "lse": 8, "fullfp16": 10, "rdm": 12, "jsconv": 13}
_HWCAP |= {"complxnum": 14, "rcpc": 15, "sha3": 17, "dotprod": 20, "sve": 22, "fp16fml": 23, "rcpc-immo": 26}
_HWCAP2 = {"sve2": 1, "i8mm": 13, "bf16": 14, "cssc": 34, "mops": 43, "faminmax": 50}
_AT_HWCAP, _AT_HWCAP2 = 16, 26


@lru_cache(maxsize=1)
def host_arch() -> str:
    """The host's architecture, "x86_64" or "aarch64".

    Raises:
        TargetError: the host has another architecture, or does not run Linux.
    """
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if arch not in TRIPLES or platform.system() != "Linux":
        raise TargetError(
            f"this machine is {platform.machine()} with {platform.system()}; libraries can be built for, and "
            f"run on, Linux on {' and '.join(sorted(TRIPLES))}. Name a target to build for another machine"
        )
    return arch


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The features of the host's CPU that compiled code may use, as LLVM names them and Linux reports them.

    Raises:
        TargetError: /proc/cpuinfo lists no features.
    """
    if host_arch() == "aarch64":
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
        words = ((_HWCAP, getauxval(_AT_HWCAP)), (_HWCAP2, getauxval(_AT_HWCAP2)))
        return frozenset(name for table, word in words for name, bit in table.items() if word >> bit & 1)
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            names = line.partition(":")[2].split()
            return frozenset(_LINUX_NAMES.get(name, name.replace("_", "")) for name in names) & _X86
    raise TargetError("/proc/cpuinfo has no flags line: mount /proc of a Linux kernel to run here")


@lru_cache(maxsize=1)
def host_target() -> TargetSpec:
    """The host's CPU by name, corrected by its actual features (a virtual machine may hide some)."""
    arch, has = host_arch(), host_features()
    name = llvm_cpus.system_name()
    name = ALIASES.get(name, name)
    if name not in known_cpus(arch):
        name = "x86-64" if arch == "x86_64" else "generic"
    options: dict[str, Any] = {"mcpu": name, "mtriple": TRIPLES[arch]}
    plain = target_of(dict(options), name)
    usable = _usable(arch)
    known = {f for cpu in known_cpus(arch) for f in llvm_cpus.features(cpu, TRIPLES[arch])}
    extra = sorted(f"+{feature}" for feature in (has & known) - plain.features)
    hidden = sorted(f"-{feature}" for feature in (plain.features & usable) - has)
    return target_of({**options, "mattr": [*extra, *hidden]}, name) if extra or hidden else plain


def missing_features(spec: TargetSpec) -> list[str]:
    """The features that code for `spec` may use and the host lacks; the architectures must be the same."""
    return sorted((spec.features & _usable(spec.arch)) - host_features())


def is_runnable(spec: TargetSpec) -> bool:
    """Whether code built for `spec` can run on the host."""
    return spec.arch == host_arch() and not missing_features(spec)


def check_runnable(spec: TargetSpec) -> None:
    """Raise the `TargetError` of `best_target` unless code built for `spec` can run on the host."""
    best_target([spec])


def best_target(specs: Sequence[TargetSpec]) -> int:
    """The index of the target whose code uses the host best: widest vectors and most features.

    Ties go to the first target.

    Raises:
        TargetError: none can run here; the message names the other architecture or the missing features, and
            what to build for instead.
    """
    runnable = [index for index, spec in enumerate(specs) if is_runnable(spec)]
    if runnable:
        return max(runnable, key=lambda index: _rank(specs[index]))
    local = [spec for spec in specs if spec.arch == host_arch()]
    if not local:
        names = ", ".join(f"{spec.mcpu} ({spec.arch})" for spec in specs)
        raise TargetError(
            f"the model was compiled for {names} and this machine is {host_arch()}; "
            "compile it again with target 'host' to run it here, or copy it to such a machine"
        )
    names = " and ".join(spec.mcpu for spec in local)
    lacks = [", ".join(missing_features(spec)) for spec in local]
    if len(local) > 1:
        lacks = [f"{missing} for {spec.mcpu}" for missing, spec in zip(lacks, local, strict=True)]
    raise TargetError(
        f"the model was compiled for {names}, and this machine ({host_target().mcpu}) lacks "
        f"{'; '.join(lacks)}; compile it again with target 'host', or '{host_target()}'"
    )


def _rank(spec: TargetSpec) -> tuple[int, bool, bool, int]:
    """The features that make code fast, most important first."""
    isa = spec.isa
    multiplies = isa.dot in ("vnni", "dotprod")
    return isa.vector_bits, isa.has_popcount, multiplies, len(spec.features & _usable(spec.arch))


def _usable(arch: str) -> frozenset[str]:
    return _X86 if arch == "x86_64" else frozenset(_HWCAP) | frozenset(_HWCAP2)
