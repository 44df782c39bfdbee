"""Compilation targets: one CPU, its operating system and its features, checked.

TVM 0.27 does not parse `"llvm -mcpu=..."`, does not infer the triple from the CPU (it builds x86 code for an
ARM CPU), and silently builds for "generic" if it does not know the name. So targets are checked here, against
the CPUs that the LLVM inside TVM knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tbt_compile.codegen.target import llvm_cpus
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.systems import LINUX, MACOS, SYSTEMS, System, read_triple
from tbt_compile.errors import TargetError, did_you_mean

# LLVM is asked about CPUs under these; the features of a CPU are the same under every system.
TRIPLES = LINUX.triples

ALIASES = {
    "raspberrypi3": "cortex-a53",
    "raspberrypi4": "cortex-a72",
    "raspberrypi5": "cortex-a76",
    "graviton2": "neoverse-n1",
    "graviton3": "neoverse-v1",
    "graviton4": "neoverse-v2",
    "skylake-server": "skylake-avx512",
    "zen2": "znver2",
    "zen3": "znver3",
    "zen4": "znver4",
    "zen5": "znver5",
}
# CPUs that LLVM accepts but does not list.
_UNLISTED = {
    "aarch64": ("apple-m1", "apple-m2", "apple-m3", "apple-m4", "cobalt-100", "ampere1"),
    "x86_64": (),
}
_MAC = "apple-m"
"""What the names of CPUs begin with that are in Macs."""
_KEYS = ("mcpu", "mtriple", "mattr")
# EOR3 (SHA3, SVE2) keeps the operands of the carry-save adder alive for longer, and its loop spills them. SVE
# has no instruction that vectors of 128 bits need.
_OFF_IN_CODE = {"aarch64": ("-sha3", "-sve"), "x86_64": ()}


@dataclass(frozen=True)
class TargetSpec:
    """One CPU to build for.

    Attributes:
        mcpu: LLVM's name of the CPU.
        triple: LLVM's triple, one of `systems.System.triples`.
        mattr: features switched on ("+name") or off ("-name") on top of what `mcpu` has.
        features: LLVM's names of all features that are then on.
    """

    mcpu: str
    triple: str
    mattr: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()

    @property
    def arch(self) -> str:
        """The architecture, "x86_64" or "aarch64"."""
        return read_triple(self.triple)[0]

    @property
    def system(self) -> System:
        """The operating system."""
        return read_triple(self.triple)[1]

    @property
    def label(self) -> str:
        """The CPU for people: "cortex-a72 (aarch64, Linux)"."""
        return f"{self.mcpu} ({self.arch}, {self.system.title})"

    @property
    def isa(self) -> Isa:
        """The instruction set that the kernels are scheduled for."""
        return Isa.from_features(self.mcpu, self.features)

    def as_dict(self) -> dict[str, Any]:
        """The target as a JSON-ready dict in TVM's form; `parse.parse_target` reads it back."""
        attributes = {"mattr": list(self.mattr)} if self.mattr else {}
        return {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu, **attributes}

    @property
    def code_options(self) -> dict[str, Any]:
        """The target that code is generated for, as `as_dict`, without features that only make it slower."""
        mattr = [*self.mattr, *_OFF_IN_CODE[self.arch]]
        return {**self.as_dict(), **({"mattr": mattr} if mattr else {})}

    @classmethod
    def recorded(cls, target: Mapping[str, Any], features: Iterable[str]) -> TargetSpec:
        """Restore the target of a compiled folder from `as_dict` and `features`, without loading LLVM."""
        return cls(target["mcpu"], target["mtriple"], tuple(target.get("mattr", ())), frozenset(features))

    def __str__(self) -> str:
        attributes = f" -mattr={','.join(self.mattr)}" if self.mattr else ""
        return f"llvm -mcpu={self.mcpu} -mtriple={self.triple}{attributes}"


def list_targets() -> list[TargetSpec]:
    """All supported 64-bit CPUs under their usual system, sorted by architecture and name."""
    return [
        _resolve(cpu, _usual_system(cpu).triples[arch], ())
        for arch in sorted(TRIPLES)
        for cpu in known_cpus(arch)
    ]


def systems_of(spec: TargetSpec) -> list[System]:
    """The systems that a target's CPU can be compiled for, its own first."""
    others = [system for system in SYSTEMS.values() if system != spec.system and spec.arch in system.triples]
    return [spec.system, *(system for system in others if system is not MACOS or _is_apple(spec.mcpu))]


@cache
def known_cpus(arch: str) -> tuple[str, ...]:
    """The names of the 64-bit CPUs that LLVM knows for `arch`, sorted."""
    triple = TRIPLES[arch]
    names = llvm_cpus.listed_names(triple) | set(_UNLISTED[arch])
    # LLVM also lists 32-bit CPUs, and many names twice, with underscores too.
    return tuple(sorted(name for name in names if "_" not in name and llvm_cpus.is_known(name, triple)))


def target_of(options: dict[str, Any], target: str, system: System | None = None) -> TargetSpec:
    """Check target options and resolve them to a `TargetSpec`.

    Args:
        options: "mcpu", and optionally "mtriple" and "mattr", as in `TargetSpec.as_dict`.
        target: the text that the user wrote, for messages.
        system: where there is no triple; None: macOS for a CPU that is in Macs, else Linux.

    Raises:
        TargetError: the CPU, the architecture, a feature or an option is unknown; near matches are named.
    """
    if options.pop("kind", "llvm") != "llvm":
        raise TargetError(f"target {target!r}: only the kind 'llvm' is supported")
    for name in options:
        if name not in _KEYS:
            hint = did_you_mean(name, _KEYS)
            raise TargetError(
                f"unknown option {name!r} in target {target!r}; known are {', '.join(_KEYS)}.{hint}"
            )
    cpu = options.get("mcpu")
    if not isinstance(cpu, str):
        raise TargetError(
            f"target {target!r} names no CPU; add one, as in 'llvm -mcpu=cortex-a72', or write 'host'"
        )
    cpu = ALIASES.get(cpu, cpu)
    if options.get("mtriple") is not None:
        arch, system = read_triple(str(options["mtriple"]))
    else:
        system = system or _usual_system(cpu)
        arch = _arch_of_cpu(cpu, system)
    if not llvm_cpus.is_known(cpu, TRIPLES[arch]):
        raise TargetError(_unknown_cpu(cpu, (arch,)))
    if system is MACOS and not _is_apple(cpu):
        raise TargetError(f"target {target!r}: no Mac has the CPU {cpu!r}; write apple-m1 for any of them")
    attributes = options.get("mattr") or ()
    if not isinstance(attributes, (str, list, tuple)):
        raise TargetError(
            f"target {target!r}: mattr is {attributes!r}; write features as in '+dotprod,-sve', or a list"
        )
    parts = attributes.split(",") if isinstance(attributes, str) else [str(part) for part in attributes]
    return _resolve(cpu, system.triples[arch], tuple(_check_feature(part, arch) for part in parts))


def _is_apple(cpu: str) -> bool:
    return cpu.startswith("apple-") or cpu == "generic"  # which is an Apple CPU that LLVM does not know


def _usual_system(cpu: str) -> System:
    return MACOS if cpu.startswith(_MAC) else LINUX


def _resolve(cpu: str, triple: str, mattr: tuple[str, ...]) -> TargetSpec:
    return TargetSpec(cpu, triple, mattr, llvm_cpus.features(cpu, triple, mattr))


def _arch_of_cpu(cpu: str, system: System) -> str:
    known = [arch for arch in sorted(TRIPLES) if llvm_cpus.is_known(cpu, TRIPLES[arch])]
    if not known:
        raise TargetError(_unknown_cpu(cpu, tuple(sorted(TRIPLES))))
    arches = [arch for arch in known if arch in system.triples]
    if not arches:
        raise TargetError(
            f"CPU {cpu!r} is {known[0]}, and TVM can be installed under {system.title} on "
            f"{' and '.join(system.triples)} only; leave the system out, or name another CPU"
        )
    if len(arches) > 1:
        choices = " or ".join(f"-mtriple={system.triples[arch]}" for arch in arches)
        raise TargetError(f"CPU {cpu!r} exists for several architectures; add {choices}")
    return arches[0]


def _check_feature(part: str, arch: str) -> str:
    known = {name for cpu in known_cpus(arch) for name in llvm_cpus.features(cpu, TRIPLES[arch])}
    sign, name = part[:1], part[1:]
    if sign not in ("+", "-"):
        raise TargetError(f"feature {part!r} must begin with '+' (on) or '-' (off), as in -mattr=+dotprod")
    if name not in known:
        raise TargetError(f"unknown {arch} feature {name!r}.{did_you_mean(name, known)}")
    return part


def _unknown_cpu(cpu: str, arches: tuple[str, ...]) -> str:
    known = [name for arch in arches for name in known_cpus(arch)] + sorted(ALIASES)
    hint = did_you_mean(cpu, known) or " `tbt targets` lists the known ones."
    return f"unknown CPU {cpu!r} for {' or '.join(arches)}.{hint}"
