"""An AArch64 machine to run compiled libraries on: this one, or an emulated one built in a cache folder.

    python tests/arm/environment.py

builds the emulated machine on x86-64 Linux: the user-program emulator QEMU, Debian's Python for AArch64, and
the wheels that running a compiled model needs. Nothing is installed and no root is needed: packages are
downloaded by apt, with lists and a state of their own, and unpacked.

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
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = "TBT_ARM_CACHE"
COMMAND = "make arm"
CPUS = ("cortex-a72", "max")
"""What QEMU calls the emulated CPUs: a Raspberry Pi 4, and one that has every instruction."""

# Raised when the same versions have to be put together in another way.
_FORMAT = 1
_ARM, _X86 = "arm64", "amd64"
_DEBIAN_PACKAGES = ("python3", "libstdc++6")
# What running a compiled model imports, without PyTorch.
_WHEELS = ("apache-tvm", "apache-tvm-ffi", "numpy", "ml-dtypes", "typing-extensions", "safetensors")
_WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_TRIAL = "import tvm, numpy, ml_dtypes, safetensors.numpy"


class SetupError(Exception):
    """The emulated machine cannot be built; the message says what was expected."""


@dataclass(frozen=True)
class Environment:
    """Where an AArch64 Python is.

    Attributes:
        python: its executable.
        site: folder of the installed wheels; None where the running Python has them.
        emulator: QEMU; None on an AArch64 machine.
        root: folder that holds the emulated system's libraries.
    """

    python: Path
    site: Path | None = None
    emulator: Path | None = None
    root: Path | None = None

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
    contents = repr((_FORMAT, _DEBIAN_PACKAGES, _WHEEL_PLATFORMS, _pinned_wheels()))
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _pinned_wheels() -> list[str]:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in _WHEELS]


def _inside(folder: Path) -> Environment:
    """The machine in a folder."""
    root = folder / "root"
    return Environment(_python_in(root), folder / "site", folder / "qemu", root)


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
    _unpack(folder / "apt", _ARM, _DEBIAN_PACKAGES, root)
    environment = _inside(folder)
    _say("wheels for AArch64")
    _install_wheels(environment)
    _say("a trial on every CPU")
    for cpu in CPUS:  # also leaves the compiled bytecode, so that the next start is quicker
        _run(
            [*environment.command(cpu), "-c", _TRIAL], "the emulated Python", PYTHONPATH=str(environment.site)
        )


def _add_emulator(folder: Path) -> None:
    """A copy of the system's emulator, or of the one in its Debian package: both need no library."""
    installed = shutil.which(_EMULATORS[0])
    if installed is not None:
        shutil.copy(installed, folder / "qemu")
        return
    _unpack(folder / "apt", _X86, ("qemu-user-static",), folder / "host")
    found = next((path for name in _EMULATORS for path in (folder / "host").rglob(name)), None)
    if found is None:
        raise SetupError(f"the package qemu-user-static holds no {' or '.join(_EMULATORS)}")
    found.replace(folder / "qemu")
    shutil.rmtree(folder / "host")


def _unpack(apt: Path, architecture: str, packages: tuple[str, ...], into: Path) -> None:
    """Download Debian packages and all that they depend on, and unpack them into a folder."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SetupError(f"{tool} was not found: expected Debian, or a system made from it")
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()  # of a system with nothing installed, so that every dependency is downloaded
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::State": apt,
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
    }
    command = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    # A source that has nothing for this architecture, or is out of reach, need not be one that is needed.
    update = subprocess.run([*command, "update"], capture_output=True, text=True, check=False)
    what = f"apt with this system's package sources (is there a network? do they carry {architecture}?)"
    try:
        _run([*command, "install", "--no-install-recommends", "--download-only", *packages], what)
    except SetupError as error:
        raise SetupError(f"{error}\n{update.stderr.strip()}".strip()) from None
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(into)], "dpkg-deb")
    shutil.rmtree(apt)


def _install_wheels(environment: Environment) -> None:
    version = environment.python.name.removeprefix("python")
    platforms = [f"--platform={name}_aarch64" for name in _WHEEL_PLATFORMS]
    _run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"),
            *("--no-compile", "--only-binary=:all:", f"--python-version={version}", *platforms),
            *("--target", str(environment.site), *_pinned_wheels()),
        ],
        f"pip, for wheels of AArch64 and Python {version} (is there a network?)",
    )


def _run(command: list[str], what: str, **variables: str) -> None:
    """Run a command; what it printed is only seen when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C", **variables}
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SetupError(f"{what} failed with exit code {done.returncode}: " + "\n".join(lines[-8:]))


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
