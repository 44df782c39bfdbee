"""An AArch64 machine to run compiled libraries on: this one, or an emulated one built in a cache folder.

    python tests/arm/environment.py

builds the emulated machine on x86-64 Linux: the user-program emulator QEMU, Debian's Python for AArch64, the
wheels that `pip install tbt-compile` would bring, and tools that look at code: LLVM's disassembler, and a
QEMU with plugins (the one that runs the tests needs no library, and has none). Nothing is installed and no
root is needed: packages are downloaded by apt, with lists and a state of their own, and unpacked.

The machine appears complete or not at all, and one that is there is used again. It is named after the
versions of the wheels, which are those of constraints.txt.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arm.packages import SetupError, run, unpack

ROOT = Path(__file__).resolve().parents[2]
CACHE = "TBT_ARM_CACHE"
COMMAND = "make arm"
CPUS = ("cortex-a72", "max")
"""What QEMU calls the emulated CPUs: a Raspberry Pi 4, and one that has every instruction."""
TOOLS = ("llvm-objdump", "qemu-aarch64")
"""What `Environment.tool` starts."""

# Raised when the same versions have to be put together in another way.
_FORMAT = 2
_ARM, _X86 = "arm64", "amd64"
_DEBIAN_PACKAGES = ("python3", "libstdc++6")
_TOOLS = ("llvm", "qemu-user")
# What `tbt run` imports; all of it is on a device, and no PyTorch.
_WHEELS = ("apache-tvm", "apache-tvm-ffi", "numpy", "ml-dtypes", "typing-extensions", "tokenizers", "typer")
_WHEELS += ("rich", "markdown-it-py", "mdurl", "pygments", "shellingham", "annotated-doc", "pydantic")
_WHEELS += ("pydantic-core", "annotated-types", "typing-inspection")
_WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_TRIAL = "import tvm, numpy, ml_dtypes, tokenizers, typer, rich"


@dataclass(frozen=True)
class Environment:
    """Where an AArch64 Python is.

    Attributes:
        python: its executable.
        site: folder of the installed wheels; None where the running Python has them.
        emulator: QEMU; None on an AArch64 machine.
        root: folder that holds the emulated system's libraries.
        tools: folder with a root of its own for the tools; None on an AArch64 machine.
    """

    python: Path
    site: Path | None = None
    emulator: Path | None = None
    root: Path | None = None
    tools: Path | None = None

    def tool(self, name: str) -> list[str]:
        """The command that starts `llvm-objdump` or `qemu-aarch64`; the system's where there are no tools."""
        if self.tools is None:
            return [name]
        libraries = ":".join(str(self.tools / part / "x86_64-linux-gnu") for part in ("lib", "usr/lib"))
        program = str((self.tools / "usr" / "bin" / name).resolve())
        return [str(self.tools / "lib64" / "ld-linux-x86-64.so.2"), "--library-path", libraries, program]

    def command(self, cpu: str) -> list[str]:
        """The command that starts Python on an emulated CPU, or on this machine's own."""
        if self.emulator is None:
            return [str(self.python)]
        return [str(self.emulator), "-cpu", cpu, "-L", str(self.root), str(self.python)]


def find() -> Environment | None:
    """The machine, if there is one."""
    if _native():
        return Environment(Path(sys.executable))
    folder = cache_folder() / _name()
    return _inside(folder) if folder.is_dir() else None


def set_up() -> Environment:
    """The machine; built now if it is not there.

    Raises:
        SetupError: it cannot be built here.
    """
    found = find()
    if found is not None:
        return found
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            f"this machine is {platform.machine()} with {platform.system()}: expected Linux on x86_64, where "
            "AArch64 can be emulated, or on AArch64"
        )
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = find()  # another process may have built it meanwhile
        if found is not None:
            return found
        work = cache / "unfinished"
        shutil.rmtree(work, ignore_errors=True)
        try:
            _build(work)
            work.replace(cache / _name())
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _inside(cache / _name())


def cache_folder() -> Path:
    """Where emulated machines are kept."""
    chosen = os.environ.get(CACHE)
    return Path(chosen).resolve() if chosen else Path.home() / ".cache" / "tbt-compile" / "arm"


def _native() -> bool:
    return (platform.system(), platform.machine()) == ("Linux", "aarch64")


def _name() -> str:
    """Changes whenever the contents have to."""
    contents = repr((_FORMAT, _DEBIAN_PACKAGES, _TOOLS, _WHEEL_PLATFORMS, _pinned_wheels()))
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _pinned_wheels() -> list[str]:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in _WHEELS]


def _inside(folder: Path) -> Environment:
    """The machine in a folder."""
    root = folder / "root"
    return Environment(_python_in(root), folder / "site", folder / "qemu", root, folder / "tools")


def _python_in(root: Path) -> Path:
    found = [path for path in (root / "usr" / "bin").glob("python3.*") if path.name[8:].isdigit()]
    if len(found) != 1:
        raise SetupError(f"{root} holds {len(found)} Pythons: expected one, from Debian's package python3")
    return found[0]


def _build(folder: Path) -> None:
    root = folder / "root"
    root.mkdir(parents=True)
    _say("QEMU")
    _add_emulator(folder)
    _say("Python for AArch64")
    unpack(folder / "apt", _ARM, _DEBIAN_PACKAGES, root)
    environment = _inside(folder)
    _say("wheels for AArch64")
    _install_wheels(environment)
    _say("tools")
    unpack(folder / "apt", _X86, _TOOLS, folder / "tools")
    for tool in TOOLS:
        run([*environment.tool(tool), "--version"], tool)
    _say("a trial on every CPU")
    for cpu in CPUS:  # also leaves the compiled bytecode, so that the next start is quicker
        run(
            [*environment.command(cpu), "-c", _TRIAL], "the emulated Python", PYTHONPATH=str(environment.site)
        )


def _add_emulator(folder: Path) -> None:
    """A copy of the system's emulator, or of the one in its Debian package: both need no library."""
    installed = shutil.which(_EMULATORS[0])
    if installed is not None:
        shutil.copy(installed, folder / "qemu")
        return
    unpack(folder / "apt", _X86, ("qemu-user-static",), folder / "host")
    found = next((path for name in _EMULATORS for path in (folder / "host").rglob(name)), None)
    if found is None:
        raise SetupError(f"the package qemu-user-static holds no {' or '.join(_EMULATORS)}")
    found.replace(folder / "qemu")
    shutil.rmtree(folder / "host")


def _install_wheels(environment: Environment) -> None:
    version = environment.python.name.removeprefix("python")
    platforms = [f"--platform={name}_aarch64" for name in _WHEEL_PLATFORMS]
    run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"),
            *("--no-compile", "--only-binary=:all:", f"--python-version={version}", *platforms),
            *("--target", str(environment.site), *_pinned_wheels()),
        ],
        f"pip, for wheels of AArch64 and Python {version} (is there a network?)",
    )


def _say(what: str) -> None:
    print(f"emulated AArch64 machine: {what}", flush=True)


def main() -> int:
    """Build the machine and say where it is."""
    try:
        environment = set_up()
    except (SetupError, OSError) as error:
        print(f"error: the emulated AArch64 machine could not be built. {error}", file=sys.stderr)
        return 1
    if environment.emulator is None:
        print("nothing to set up: this machine runs AArch64 code itself")
    else:
        print(f"emulated AArch64 machine: ready in {environment.python.parents[3]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
