"""Link TVM object code into a shared library, for the host or another machine, without a C compiler.

The library needs libc, libm and TVM's runtime, which the loading process already has, so it is linked without
standard libraries. That makes linking fast and the library independent of the libc version.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.errors import LoweringError, TargetError

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
# Functions of one library call each other, whatever else the process has under their names.
_FLAGS = ["-shared", "-fPIC", "-nostdlib", "-s", "-Wl,-Bsymbolic"]


def link(objects: Sequence[bytes], spec: TargetSpec) -> bytes:
    """Link object files into a shared library.

    Args:
        objects: the contents of the files; a function of one may call those of others.
        spec: the target that they were compiled for.

    Returns:
        The contents of the library.

    Raises:
        TargetError: no linker for `spec`'s architecture was found.
        LoweringError: the linker failed, or the object code is for another architecture than `spec`.
    """
    with tempfile.TemporaryDirectory(prefix="tbt-link-") as work:
        linked, files = Path(work) / "linked.so", []
        for index, content in enumerate(objects):
            files.append(str(Path(work) / f"{index}.o"))
            Path(files[-1]).write_bytes(content)
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": work, "ZIG_LOCAL_CACHE_DIR": work}
        command = [*link_command(spec), "-o", str(linked), *files]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise LoweringError(f"linking for {spec.mcpu} failed: {done.stderr.strip()[-2000:]}")
        content = linked.read_bytes()
    _check_machine(content, spec)
    return content


def link_command(spec: TargetSpec) -> list[str]:
    """The command that links a library for `spec`, without the names of the files.

    Raises:
        TargetError: as for `linker_command`.
    """
    return [*linker_command(spec), *_FLAGS]


def linker_command(spec: TargetSpec) -> list[str]:
    """The command that links for `spec`: the `ziglang` package, else a C compiler of the system.

    Raises:
        TargetError: neither is installed; the message says how to install either.
    """
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{spec.arch}-linux-gnu"]
    candidates = [f"{spec.arch}-linux-gnu-gcc"]
    if spec.arch == os.uname().machine:
        candidates += ["cc", "gcc", "clang"]
    for name in candidates:
        if shutil.which(name) is not None:
            return [name]
    package = f"gcc-{spec.arch.replace('_', '-')}-linux-gnu"
    raise TargetError(
        f"no linker for {spec.arch} was found; `pip install ziglang` brings one for every architecture, "
        f"or install a C compiler of the system ({package} on Debian and Ubuntu)"
    )


def _check_machine(library: bytes, spec: TargetSpec) -> None:
    """Raise unless the library is for the architecture of `spec`."""
    machine = int.from_bytes(library[18:20], "little")
    if library[:4] != b"\x7fELF" or machine != _ELF_MACHINES[spec.arch]:
        raise LoweringError(
            f"a library was to be linked for {spec.arch} but holds ELF machine {machine}; compile its "
            f"functions with the target {spec.as_dict()}"
        )
