"""The host: its CPU and features, and whether code built for a target can run on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tbt_compile.codegen.target import linux_features, llvm_cpus, macos_features, windows_features
from tbt_compile.codegen.target.spec import ALIASES, TRIPLES, TargetSpec, known_cpus, target_of
from tbt_compile.codegen.target.systems import LINUX, MACOS, System, this_machine
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
_ARM_NAMES = """
fp-armv8 neon crc lse fullfp16 rdm jsconv complxnum rcpc sha3 dotprod sve fp16fml rcpc-immo sve2 i8mm bf16
cssc mops faminmax
"""
_USABLE = {"x86_64": frozenset(_X86_NAMES.split()), "aarch64": frozenset(_ARM_NAMES.split())}


def host_arch() -> str:
    """The host's architecture, "x86_64" or "aarch64".

    Raises:
        TargetError: libraries can neither be built for the host nor run on it.
    """
    return this_machine()[0]


def host_system() -> System:
    """The host's operating system.

    Raises:
        TargetError: as for `host_arch`.
    """
    return this_machine()[1]


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The features of the host's CPU that code may use, as LLVM names them and the system reports them.

    Raises:
        TargetError: the system does not report them.
    """
    arch, system = this_machine()
    if system is LINUX:
        found = linux_features.read(arch)
    else:
        found = macos_features.read() if system is MACOS else windows_features.read()
    return found & _USABLE[arch]


@lru_cache(maxsize=1)
def host_target() -> TargetSpec:
    """The host's CPU by name, corrected by its actual features (a virtual machine may hide some)."""
    arch, has = host_arch(), host_features()
    name = llvm_cpus.system_name()
    name = ALIASES.get(name, name)
    if name not in known_cpus(arch):
        name = "x86-64" if arch == "x86_64" else "generic"
    options: dict[str, Any] = {"mcpu": name, "mtriple": host_system().triples[arch]}
    plain = target_of(dict(options), name)
    usable = _USABLE[arch]
    known = {f for cpu in known_cpus(arch) for f in llvm_cpus.features(cpu, TRIPLES[arch])}
    extra = sorted(f"+{feature}" for feature in (has & known) - plain.features)
    hidden = sorted(f"-{feature}" for feature in (plain.features & usable) - has)
    return target_of({**options, "mattr": [*extra, *hidden]}, name) if extra or hidden else plain


def missing_features(spec: TargetSpec) -> list[str]:
    """The features that code for `spec` may use and the host lacks; the architectures must be the same."""
    return sorted((spec.features & _USABLE[spec.arch]) - host_features())


def is_runnable(spec: TargetSpec) -> bool:
    """Whether code built for `spec` can run on the host."""
    return _fits(spec) and not missing_features(spec)


def check_runnable(spec: TargetSpec) -> None:
    """Raise the `TargetError` of `best_target` unless code built for `spec` can run on the host."""
    best_target([spec])


def best_target(specs: Sequence[TargetSpec]) -> int:
    """The index of the target whose code uses the host best: widest vectors and most features.

    Ties go to the first target.

    Raises:
        TargetError: none can run here; the message names the other architecture or system, or the missing
            features, and what to build for instead.
    """
    runnable = [index for index, spec in enumerate(specs) if is_runnable(spec)]
    if runnable:
        return max(runnable, key=lambda index: _rank(specs[index]))
    local = [spec for spec in specs if _fits(spec)]
    if not local:
        names = ", ".join(spec.label for spec in specs)
        raise TargetError(
            f"the model was compiled for {names} and this machine is {host_arch()}, {host_system().title}; "
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


def _fits(spec: TargetSpec) -> bool:
    """Whether a target has the host's architecture and system."""
    return (spec.arch, spec.system) == (host_arch(), host_system())


def _rank(spec: TargetSpec) -> tuple[int, bool, bool, int]:
    """The features that make code fast, most important first."""
    isa = spec.isa
    multiplies = isa.dot in ("vnni", "dotprod")
    return isa.vector_bits, isa.has_popcount, multiplies, len(spec.features & _USABLE[spec.arch])
