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
from pathlib import Path
from typing import Any

from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.errors import LoweringError, TargetError

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_FLAGS = ["-shared", "-fPIC", "-nostdlib", "-s"]


def export_library(executable: Any, path: str | Path, spec: TargetSpec) -> Path:
    """Link a compiled TVM module into a shared library, atomically.

    The linker writes to a temporary folder next to `path`; the result is then renamed.

    Args:
        executable: the result of `compile_functions`.
        path: of the shared library; missing folders are created.
        spec: the target that the module was compiled for.

    Returns:
        `path`.

    Raises:
        TargetError: no linker for `spec`'s architecture was found.
        LoweringError: the linker failed, or the object code is for another architecture than `spec`.
    """
    path = Path(path)
    command = linker_command(spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".link-", dir=path.parent) as work:
        linked = Path(work) / "linked.so"
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": work, "ZIG_LOCAL_CACHE_DIR": work}

        def link(output: str, objects: list[str], **_: Any) -> None:
            arguments = [*command, *_FLAGS, "-o", output, *map(str, objects)]
            done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
            if done.returncode != 0:
                raise LoweringError(
                    f"linking {path.name} for {spec.mcpu} failed: {done.stderr.strip()[-2000:]}"
                )

        executable.export_library(str(linked), fcompile=link, workspace_dir=work)
        _check_machine(linked, path, spec)
        linked.replace(path)
    return path


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


def _check_machine(linked: Path, path: Path, spec: TargetSpec) -> None:
    """Raise unless the library is for the architecture of `spec`; `path` is for the message."""
    with linked.open("rb") as file:
        head = file.read(20)
    machine = int.from_bytes(head[18:20], "little")
    if head[:4] != b"\x7fELF" or machine != _ELF_MACHINES[spec.arch]:
        raise LoweringError(
            f"{path.name} was to be linked for {spec.arch} but holds ELF machine {machine}; build the module "
            f"with the target {spec.as_dict()}"
        )
