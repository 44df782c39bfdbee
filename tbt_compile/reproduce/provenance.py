"""Provenance of a result: code, machine, versions, time."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import tbt_compile
from tbt_compile.bench.conditions import conditions
from tbt_compile.training import processes
from tbt_compile.training.precision import product_format

_PACKAGES = ("accelerate", "datasets", "rouge-score", "sacrebleu", "tokenizers")
"""Packages that scores depend on, in addition to those of `conditions`."""


def provenance(seconds: float) -> dict[str, Any]:
    """The provenance of a result, ready for JSON.

    Args:
        seconds: wall time of the call that finished the work, without earlier interrupted calls.
    """
    device, machine = processes.device(), conditions()
    return {
        "commit": commit(Path(tbt_compile.__file__).parent),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": processes.count(),
        "torch_threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "product_format": product_format(),
        **machine,
        "versions": {**machine["versions"], **{name: version(name) for name in _PACKAGES}},
    }


def commit(folder: Path) -> str | None:
    """The checked-out commit of a folder, with "+changes" if files differ; None outside git."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return None
    return f"{head}+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
