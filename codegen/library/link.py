"""Link TVM object code into a shared library, for the host or another machine, without a C compiler.

The library needs libc, libm and TVM's runtime, which the loading process already has, so it is linked without
standard libraries. That makes linking fast and the library independent of the libc version. A Windows library
names the DLLs that have them, see `windows_imports`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tbt_compile.codegen.library import windows_imports
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.target.systems import LINUX, MACOS, WINDOWS
from tbt_compile.errors import LoweringError, TargetError

_ZIG = [sys.executable, "-m", "ziglang"]
# By system: what zig calls it. Older systems than macOS 12 do not list the features of the CPU.
_ZIG_SYSTEMS = {LINUX: "linux-gnu", MACOS: "macos.12.0", WINDOWS: "windows-gnu"}
_FLAGS = {
    # Functions of one library call each other, whatever else the process has under their names.
    LINUX: ["-fPIC", "-Wl,-Bsymbolic"],
    # TVM's symbols are looked up in the process. Without a name the file's own, a temporary one, is stored.
    MACOS: ["-Wl,-undefined,dynamic_lookup", "-Wl,-install_name,@rpath/model.dylib"],
    # No code to run when it is loaded, and no time stamp: the same objects give the same bytes.
    WINDOWS: ["-Wl,--no-entry", "-Wl,-Brepro"],
}


def link(objects: Sequence[bytes], spec: TargetSpec) -> bytes:
    """Link object files into a shared library.

    Args:
        objects: the contents of the files; a function of one may call those of others.
        spec: the target that they were compiled for.

    Returns:
        The contents of the library.

    Raises:
        TargetError: no linker for `spec` was found.
        LoweringError: the linker failed, or the object code is for another machine than `spec`.
    """
    with tempfile.TemporaryDirectory(prefix="tbt-link-") as work:
        linked, files = Path(work) / f"model{spec.system.suffix}", []
        for index, content in enumerate(objects):
            files.append(str(Path(work) / f"{index}.o"))
            Path(files[-1]).write_bytes(content)

        def run(command: list[str]) -> None:
            environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": work, "ZIG_LOCAL_CACHE_DIR": work}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode != 0:
                raise LoweringError(f"linking for {spec.label} failed: {done.stderr.strip()[-2000:]}")

        command = link_command(spec)
        if spec.system is WINDOWS:
            files += windows_imports.write_inputs(Path(work), lambda rest: run([*_ZIG, "dlltool", *rest]))
        run([*command, "-o", str(linked), *files])
        content = linked.read_bytes()
    _check_machine(content, spec)
    return content


def link_command(spec: TargetSpec) -> list[str]:
    """The command that links a library for `spec`, without the names of the files.

    Raises:
        TargetError: as for `linker_command`.
    """
    return [*linker_command(spec), "-shared", "-nostdlib", "-s", *_FLAGS[spec.system]]


def link_sources(spec: TargetSpec) -> list[str]:
    """The texts besides the objects that a library for `spec` is linked from."""
    return list(windows_imports.sources().values()) if spec.system is WINDOWS else []


def linker_command(spec: TargetSpec) -> list[str]:
    """The command that links for `spec`: the `ziglang` package, for Linux else a C compiler of the system.

    Raises:
        TargetError: neither is installed; the message says how to install either.
    """
    if importlib.util.find_spec("ziglang") is not None:
        return [*_ZIG, "cc", "-target", f"{spec.arch}-{_ZIG_SYSTEMS[spec.system]}"]
    advice = "`pip install ziglang` brings one for every architecture and system"
    if spec.system is not LINUX:
        raise TargetError(f"no linker for {spec.system.title} on {spec.arch} was found; {advice}")
    candidates = [f"{spec.arch}-linux-gnu-gcc"]
    if (platform.system(), platform.machine()) == ("Linux", spec.arch):
        candidates += ["cc", "gcc", "clang"]
    for name in candidates:
        if shutil.which(name) is not None:
            return [name]
    package = f"gcc-{spec.arch.replace('_', '-')}-linux-gnu"
    raise TargetError(
        f"no linker for {spec.arch} was found; {advice}, "
        f"or install a C compiler of the system ({package} on Debian and Ubuntu)"
    )


def _check_machine(library: bytes, spec: TargetSpec) -> None:
    """Raise unless the library is for the system and the architecture of `spec`."""
    found, expected = _machine(library), _MACHINES[spec.system, spec.arch]
    if found != expected:
        raise LoweringError(
            f"a library was to be linked for {spec.label}, {expected}, but is {found}; compile its functions "
            f"with the target {spec.as_dict()}"
        )


_MACHINES = {
    (LINUX, "x86_64"): "ELF 62",
    (LINUX, "aarch64"): "ELF 183",
    (MACOS, "aarch64"): "Mach-O 16777228",
    (WINDOWS, "x86_64"): "COFF 34404",
}


def _machine(library: bytes) -> str:
    """The format of a library, and the number of its machine in the words of that format."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(library[at : at + size], "little")

    if library[:4] == b"\x7fELF":
        return f"ELF {number(18, 2)}"
    if library[:4] == b"\xcf\xfa\xed\xfe":
        return f"Mach-O {number(4, 4)}"
    header = number(0x3C, 4)
    if library[:2] == b"MZ" and library[header : header + 4] == b"PE\0\0":
        return f"COFF {number(header + 4, 2)}"
    return "of no known format"
