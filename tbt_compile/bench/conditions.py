"""The conditions of a measurement: machine, load and versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("tbt-compile", "apache-tvm", "torch", "transformers", "ctranslate2", "onnxruntime")


def conditions() -> dict[str, Any]:
    """CPU, instruction set, cores, load and versions, ready for JSON."""
    from tbt_compile.codegen.target.host import host_target

    host = host_target()
    return {
        "cpu": _cpu_name(),
        "llvm_cpu": host.mcpu,
        "arch": host.arch,
        "vector_bits": host.isa.vector_bits,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu_name() -> str:
    cpus = Path("/proc/cpuinfo")  # of Linux
    for line in cpus.read_text().splitlines() if cpus.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
