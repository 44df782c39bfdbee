"""What this machine and installation are, and whether its kernels compute what they should."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tbt_compile.errors import TbtError

if TYPE_CHECKING:
    from tbt_compile.codegen.tools.self_test import KernelTest

_NEEDED = ("tbt-compile", "apache-tvm", "numpy", "tokenizers")
# What is missing without an optional package.
_OPTIONAL = {
    "torch": "preparing, freezing and compiling models",
    "transformers": "models of Hugging Face",
    "safetensors": "frozen folders",
    "ziglang": "linking libraries",
    "accelerate": "training",
    "datasets": "training on named data sets",
    "gguf": "GGUF files",
    "fastapi": "`tbt serve`",
    "uvicorn": "`tbt serve`",
    "cryptography": "signatures of folders",
    "pandas": "DataFrames of summaries",
}


@dataclass(frozen=True)
class Finding:
    """A fact about the machine or the installation.

    Attributes:
        topic: "machine", "versions", "cache" or "threads".
        name: what it is about.
        value: as found.
        ok: whether it is in order.
        advice: what to do if it is not, or what is missing without it.
    """

    topic: str
    name: str
    value: str
    ok: bool = True
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `tbt doctor` found.

    Attributes:
        findings: by topic.
        kernels: one test per kernel that this machine gets.
    """

    findings: tuple[Finding, ...]
    kernels: tuple[KernelTest, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is in order and every kernel equals its reference."""
        return all(each.ok for each in self.findings) and all(each.ok for each in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "ok": self.ok,
            "findings": [asdict(each) for each in self.findings],
            "kernels": [{**asdict(each), "ok": each.ok} for each in self.kernels],
        }


def diagnose(progress: Callable[[str, float], None] = lambda _text, _share: None) -> Diagnosis:
    """Look at the machine and the installation, and run the self-test of the kernels.

    Needs no torch. The first self-test compiles the kernels, later ones find them in the cache.

    Args:
        progress: called with a description and the share done, from 0 to 1.
    """
    progress("looking at the machine", 0.0)
    findings = tuple(finding for topic in (_machine, _versions, _cache, _threads) for finding in topic())
    if any(not each.ok for each in findings if each.topic in ("machine", "threads")):
        return Diagnosis(findings, ())  # kernels cannot be compiled, or not run
    from tbt_compile.codegen.tools.self_test import self_test

    kernels: list[KernelTest] = []
    for test in self_test():
        kernels.append(test)
        progress(f"kernels: {test.product}", len(kernels) / (len(kernels) + 1))
    return Diagnosis(findings, tuple(kernels))


def _machine() -> Iterator[Finding]:
    from tbt_compile.codegen.target import tiles
    from tbt_compile.codegen.target.host import host_system, host_target

    try:
        host, system = host_target(), host_system()
    except TbtError as error:
        yield Finding("machine", "CPU", platform.machine(), False, str(error))
        return
    yield Finding("machine", "CPU", f"{host.mcpu} ({host.arch}, {system.title})")
    yield Finding("machine", "vectors", f"{host.isa.vector_bits} bits")
    yield Finding("machine", "features", " ".join(sorted(host.isa.features)))
    yield Finding("machine", "register tiles", tiles.isa_class(host.isa), True, _tiles_advice())


def _tiles_advice() -> str:
    from tbt_compile.codegen.target import tiles

    path = tiles.user_path()
    return f"measured here, in {path}" if path.exists() else "as shipped; `tbt tune` measures them here"


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", platform.python_version())
    for name in _NEEDED:
        found = _version(name)
        advice = "" if found else f"pip install {name}"
        yield Finding("versions", name, found or "missing", bool(found), advice)
    for name, use in _OPTIONAL.items():
        found = _version(name)
        yield Finding("versions", name, found or "not installed", True, "" if found else f"for {use}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cache() -> Iterator[Finding]:
    from tbt_compile.storage.content_cache import FOLDER, LIMIT, user_cache
    from tbt_compile.table import mebibytes

    try:
        cache = user_cache()
    except TbtError as error:
        yield Finding("cache", "kernels", os.environ.get(LIMIT, ""), False, str(error))
        return
    if cache is None:
        advice = f"{FOLDER} turns it off: every kernel is compiled anew"
        yield Finding("cache", "kernels", "off", True, advice)
        return
    files = list(cache.folder.iterdir()) if cache.folder.is_dir() else []
    size = mebibytes(sum(file.stat().st_size for file in files if file.is_file()))
    place = next(path for path in (cache.folder, *cache.folder.parents) if path.exists())
    writable = os.access(place, os.W_OK)
    advice = "" if writable else f"{place} cannot be written: set {FOLDER} to a folder of yours"
    yield Finding("cache", "kernels", str(cache.folder), writable, advice)
    yield Finding("cache", "size", f"{size} in {len(files)} files, at most {mebibytes(cache.limit)}")


def _threads() -> Iterator[Finding]:
    from tbt_compile.codegen.library.threads import choose, cores, limit

    yield Finding("threads", "cores", str(cores()))
    try:
        most, variable = limit()
        yield Finding("threads", "per call", str(choose(None)), True, f"at most {most} ({variable})")
    except TbtError as error:
        yield Finding("threads", "per call", "unknown", False, str(error))
