"""Profile of compiled models: time by kind of work, for the encoder and for a decoding step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.generation import BenchSettings, job_of
from tbt_compile.bench.model_shapes import get_shape
from tbt_compile.bench.worker_process import build, measure_steps
from tbt_compile.errors import TbtError

OUTSIDE = "between kernels"
"""Time of a run outside kernels: Python, the search and call overhead."""
# Kinds of work by prefix of the kernel's name; the first match counts.
_KINDS = {
    "linear": "linear layers",
    "attention": "attention",
    "qk": "attention",
    "pv": "attention",
    "softmax": "attention",
    "pack_": "packing keys and values",
    "append_": "packing keys and values",
    "concatenate": "packing keys and values",
    "layer_norm": "normalisation",
    "rms_norm": "normalisation",
    "activation": "activation functions",
    "embedding": "embedding",
    "take": "embedding",
    "transpose": "transposition",
}
_OTHER = "masks, positions, sums"
_PROMPT = "first_step"


def profile(
    settings: BenchSettings, progress: Callable[[str, float], None] = lambda _text, _share: None
) -> dict[str, Any]:
    """Compile each recipe with timed kernels and profile generation.

    Args:
        settings: recipes, shape and workload.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        {"conditions": ..., "settings": ..., "rows": [...]}: a row has recipe, unit ("encoder"; without one
        "first_step", the whole prompt; and "step", one generated token), kind, calls, us (microseconds) and
        share of the unit.

    Raises:
        TbtError: a setting is invalid, or there is no recipe.
    """
    settings.check()
    if not settings.recipes:
        raise TbtError("nothing to profile: name a recipe with --recipe")
    rows: list[dict[str, Any]] = []
    for index, recipe in enumerate(settings.recipes):
        progress(f"profiling {recipe}", index / len(settings.recipes))
        with tempfile.TemporaryDirectory(prefix="tbt-profile-") as folder:
            job = job_of(settings, "tbt", recipe, Path(folder), clock=True)
            build(job)
            measured = measure_steps(job, settings.repeats)
        rows += rows_of(measured, recipe, get_shape(settings.shape).vocab_size, settings.new_tokens)
    return {"conditions": conditions(), "settings": asdict(settings), "rows": rows}


def rows_of(measured: dict[str, Any], recipe: str, vocabulary: int, tokens: int) -> list[dict[str, Any]]:
    """The rows of one recipe, largest first within each unit.

    Args:
        measured: nanoseconds of one run: names and times of the kernels by unit, and "outside" for the rest.
        recipe: E-W-A notation.
        vocabulary: tokens of the model, which identify the output projection.
        tokens: generated in the run.
    """
    rows = []
    for unit in ("encoder" if "encoder" in measured else _PROMPT, "step"):
        # A separate function decodes the first token, so there is one step fewer than there are tokens.
        count = max(1, tokens - 1) if unit == "step" else 1
        totals: dict[str, list[float]] = {}
        for name, nanoseconds in measured[unit]:
            total = totals.setdefault(kind_of(name, vocabulary), [0, 0.0])
            total[0] += 1
            total[1] += nanoseconds / 1000 / count
        if unit == "step":
            totals[OUTSIDE] = [0, measured["outside"] / 1000 / tokens]
        whole = sum(us for _, us in totals.values())
        rows += [
            {"recipe": recipe, "unit": unit, "kind": kind, "calls": calls, "us": us, "share": us / whole}
            for kind, (calls, us) in sorted(totals.items(), key=lambda item: -item[1][1])
        ]
    return rows


def kind_of(name: str, vocabulary: int) -> str:
    """The kind of work of a kernel.

    >>> kind_of("linear_768_768_binary_binary_1_1", 50265)
    'linear layers'
    >>> kind_of("linear_50265_768_int8_binary_0_0", 50265)
    'output projection'
    """
    if name.startswith(f"linear_{vocabulary}_"):
        return "output projection"
    return next((kind for prefix, kind in _KINDS.items() if name.startswith(prefix)), _OTHER)
