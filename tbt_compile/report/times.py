"""The time of every layer of a model that was compiled with clocks. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from tbt_compile.errors import PlanError
from tbt_compile.inspection.layers import Summary
from tbt_compile.inspection.summarize import summary
from tbt_compile.report.sections import Times
from tbt_compile.storage import model_folder

SOURCE, NEW_TOKENS, RUNS = 64, 16, 5
_SCALES = (".input_quantizer.scale", ".query.scale", ".key.scale", ".probabilities.scale", ".value.scale")


def times_of(model: Any) -> Times:
    """Run a compiled model, and add up the time of its kernels by layer.

    Args:
        model: a `CompiledModel` that generates text, compiled with `lower(clock=True)` for this machine.

    Returns:
        The time of one generation: medians over `RUNS`, after a first one.

    Raises:
        PlanError: the model has no clocks, a plain module has no workload, or an older release compiled it.
        TargetError: the model was compiled for another machine.
    """
    if not model.description["clock"]:
        raise PlanError("the compiled model has no clocks: compile it with `tbt lower --clock`")
    if model.KIND != model_folder.GENERATOR:
        raise PlanError("a compiled module has no text to generate: time it with its inputs in Python")
    reads = model.description.get("reads")
    if reads is None:
        raise PlanError("a release that recorded no layers compiled this model: lower it again with --clock")
    positions = model.description.get("max_positions") or SOURCE + NEW_TOKENS
    source = max(1, min(SOURCE, positions - NEW_TOKENS))
    new = max(1, min(NEW_TOKENS, positions - source))
    ids = np.ones((1, source), dtype=np.int64)
    settings = {"max_new_tokens": new, "min_new_tokens": new, "num_beams": 1}
    owners = step_layers(model)
    readings = []
    for _ in range(2 + RUNS):  # the first run also makes threads and reads weights
        readings.append(_nanoseconds(model))
        model.generate(ids, np.ones_like(ids), **settings)
    runs = [_by_layer(owners, after, before) for before, after in pairwise(readings[1:])]
    layers = {name: float(np.median([run[name] for run in runs])) / 1000 for name in runs[0]}
    threads = "all threads" if model.num_threads is None else f"{model.num_threads} thread(s)"
    work = f"one text of {source} tokens and {new} new tokens, greedily, {threads}"
    return Times(work, model.target.mcpu, layers, sum(layers.values()))


def step_layers(model: Any) -> dict[str, list[str]]:
    """The layer of every step of a model with clocks, by unit; "" for what belongs to no layer."""
    owners = _Owners(summary(model))
    reads = model.description["reads"]
    return {
        unit: [owners.of(kernel, read) for kernel, read in zip(kernels, reads[unit], strict=True)]
        for unit, kernels in model.description["clock"].items()
    }


def _nanoseconds(model: Any) -> dict[str, list[int]]:
    """Spent in every step since the model was loaded, by unit."""
    return {unit: [spent for _, spent in steps] for unit, steps in model.times().items()}


def _by_layer(
    owners: Mapping[str, list[str]], after: Mapping[str, list[int]], before: Mapping[str, list[int]]
) -> dict[str, int]:
    """Nanoseconds between two readings of the clocks, by layer."""
    layers: dict[str, int] = {}
    for unit, names in owners.items():
        for name, end, start in zip(names, after[unit], before[unit], strict=True):
            layers[name] = layers.get(name, 0) + end - start
    return layers


class _Owners:
    """Finds the layer that a kernel belongs to by the parameters that it reads."""

    def __init__(self, found: Summary) -> None:
        self.names = sorted((layer.name for layer in found if layer.name), key=len, reverse=True)
        self.projections = {
            layer.tied_to: layer.name for layer in found if layer.kind in ("linear", "Linear")
        }

    def of(self, kernel: str, parameters: Iterable[str]) -> str:
        """The layer of a kernel; "" if it reads nothing of one.

        A projection that shares the weight of an embedding reads its own scale, or is not a lookup.
        """
        owned = [(name, owner) for name in parameters if (owner := self._owner(name))]
        for name, owner in owned:
            if name.endswith(_SCALES):
                return owner
        if not owned:
            return ""
        owner = owned[0][1]
        return self.projections.get(owner, owner) if kernel.startswith("linear") else owner

    def _owner(self, parameter: str) -> str:
        return next((name for name in self.names if parameter.startswith(f"{name}.")), "")
