"""The operating systems that libraries are built for: triples, names of files, and how a triple is read."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tbt_compile.errors import TargetError

_ARCH_SPELLINGS = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


@dataclass(frozen=True, eq=False)
class System:
    """One operating system.

    Attributes:
        name: as it is written in targets.
        title: as its maker writes it.
        triples: LLVM's triple for each architecture that TVM can be installed on.
        pattern: what follows the architecture in a triple, as a regular expression.
        suffix: of the file names of libraries.
        monotonic_clock: the number of the clock in `clock_gettime`; None where there is no such function.
    """

    name: str
    title: str
    triples: Mapping[str, str]
    pattern: str
    suffix: str
    monotonic_clock: int | None


LINUX = System(
    name="linux",
    title="Linux",
    triples={"aarch64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"},
    pattern=r"(\w+-)?linux(-gnu)?",
    suffix=".so",
    monotonic_clock=1,
)
MACOS = System(
    name="macos",
    title="macOS",
    triples={"aarch64": "arm64-apple-macos"},
    pattern=r"apple-(macosx?|darwin)[\d.]*",
    suffix=".dylib",
    monotonic_clock=6,
)
WINDOWS = System(
    name="windows",
    title="Windows",
    triples={"x86_64": "x86_64-pc-windows-msvc"},  # code for -gnu calls sincosf, which Windows does not have
    pattern=r"(\w+-)?windows(-gnu|-msvc)?",
    suffix=".dll",
    monotonic_clock=None,
)
SYSTEMS = {system.name: system for system in (LINUX, MACOS, WINDOWS)}
_PYTHON_NAMES = {"Linux": LINUX, "Darwin": MACOS, "Windows": WINDOWS}


def read_triple(triple: str) -> tuple[str, System]:
    """The architecture, "x86_64" or "aarch64", and the system of a triple in any common spelling.

    Raises:
        TargetError: libraries cannot be built for it.

    >>> arch, system = read_triple("x86_64-pc-windows-msvc")
    >>> arch, system.name
    ('x86_64', 'windows')
    """
    spelled, _, rest = triple.partition("-")
    arch = _ARCH_SPELLINGS.get(spelled, spelled)
    for system in SYSTEMS.values():
        if arch in system.triples and re.fullmatch(system.pattern, rest):
            return arch, system
    raise TargetError(f"triple {triple!r} is not supported; supported are {_all_triples()}")


def this_machine() -> tuple[str, System]:
    """The architecture and the system of this machine.

    Raises:
        TargetError: libraries cannot be built for it.
    """
    machine = platform.machine().lower()
    arch, system = _ARCH_SPELLINGS.get(machine, machine), _PYTHON_NAMES.get(platform.system())
    if system is None or arch not in system.triples:
        places = [f"{known.title} on {' and '.join(known.triples)}" for known in SYSTEMS.values()]
        raise TargetError(
            f"this machine is {platform.machine()} with {platform.system()}; libraries can be built for, and "
            f"run on, {', '.join(places)}. Name a target to build for another machine"
        )
    return arch, system


def _all_triples() -> str:
    return ", ".join(triple for system in SYSTEMS.values() for triple in system.triples.values())
