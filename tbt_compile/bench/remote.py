"""The benchmarks on a remote board through TVM's RPC; the board needs only TVM.

Kernels are compiled here, and called and timed on the board: figures include neither the network nor this
machine.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from tbt_compile.bench.engines import compiled as engine
from tbt_compile.bench.generation import BenchSettings
from tbt_compile.bench.job import Job
from tbt_compile.bench.kernel_case import KernelCase, parse_cases
from tbt_compile.bench.kernels import KernelSettings
from tbt_compile.bench.model_shapes import get_shape, source_ids
from tbt_compile.bench.remote_model import RemoteModel
from tbt_compile.codegen.library.library import compile_functions
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tools.remote import Board
from tbt_compile.codegen.tools.standalone import linear_arrays
from tbt_compile.errors import TargetError
from tbt_compile.progress import Progress
from tbt_compile.storage.model_folder import folder_bytes

_KERNEL = "kernel"


def run_kernels(settings: KernelSettings, address: str, key: str, progress: Progress) -> dict[str, Any]:
    """Time linear layers on random data, including quantizing and packing the activations.

    Args:
        settings: operators, shapes, threads, rounds and target.
        address: "HOST:PORT" of the RPC server.
        key: that the server was started with.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        {"board": ..., "settings": ..., "rows": [...]}, ready for JSON; times in microseconds per call.

    Raises:
        TargetError: no server answers, or the target is "host".
        TbtError: an operator or shape is malformed.
    """
    cases, spec = parse_cases(settings.operators, settings.shapes), _target(settings.target)
    board = Board(address, key)
    board.use_threads(settings.threads)
    rows = []
    for index, case in enumerate(cases):
        progress(f"measuring {case}", index / len(cases))
        us = 1e6 * median(_kernel_seconds(board, case, spec, settings.rounds))
        rows.append({**asdict(case), "us": us, "gmac_per_s": case.macs / us / 1e3})
    return {"board": _board(address, key, spec), "settings": asdict(settings), "rows": rows}


def run_generation(settings: BenchSettings, address: str, key: str, progress: Progress) -> dict[str, Any]:
    """Time the encoder and a decoding step of a random model at every recipe.

    `encoder_ms` is the time to the first token minus one step. A step is timed with the longest cache,
    without the overhead of its caller (Python, choosing the token).

    Args:
        settings: shape, recipes, lengths, threads, repeats and target.
        address, key, progress: as for `run_kernels`.

    Returns:
        {"board": ..., "settings": ..., "rows": [...]}, ready for JSON; rows include the generated tokens.

    Raises:
        TargetError: no server answers, or the target is "host".
    """
    spec = _target(settings.target)
    board = Board(address, key)
    board.use_threads(settings.threads)
    rows = []
    for index, recipe in enumerate(settings.recipes):
        progress(f"{recipe}: compiling", index / len(settings.recipes))
        with tempfile.TemporaryDirectory() as folder:
            job = Job(
                engine="tbt",
                recipe=recipe,
                shape=settings.shape,
                threads=settings.threads,
                source_length=settings.source_length,
                new_tokens=settings.new_tokens,
                target=settings.target,
                folder=folder,
            )
            engine.build(job)
            progress(f"{recipe}: measuring", (index + 0.5) / len(settings.recipes))
            rows.append(_generation_row(board, job, settings.repeats))
    return {"board": _board(address, key, spec), "settings": asdict(settings), "rows": rows}


def _kernel_seconds(board: Board, case: KernelCase, spec: TargetSpec, rounds: int) -> list[float]:
    layer = case.spec(spec.isa)
    function, arrays = linear_arrays(layer, case.m)
    with tempfile.TemporaryDirectory() as folder:
        file = (
            Path(folder) / f"{case.operator.replace('*', '-')}-{case.m}-{case.n}-{case.k}{spec.system.suffix}"
        )
        module = board.load(compile_functions({_KERNEL: function}, spec).export(file))
    return board.seconds(module, _KERNEL, [board.tensor(array) for array in arrays], rounds)


def _generation_row(board: Board, job: Job, repeats: int) -> dict[str, Any]:
    folder = engine.folder_of(job)
    model = RemoteModel(board, folder)
    source = source_ids(get_shape(job.shape), job.source_length)
    tokens, seconds = model.generate(source, job.new_tokens, repeats)
    times = {name: 1e3 * median(values) for name, values in seconds.items()}
    return {
        "recipe": job.recipe,
        "encoder_ms": times["encoder"] + times["first_step"] - times["step"],
        "token_ms": times["step"],
        "size_mib": folder_bytes(folder) / 2**20,
        "tokens": tokens,
    }


def _target(name: str) -> TargetSpec:
    if name == "host":
        raise TargetError("the board's CPU cannot be detected: name it, as in --target cortex-a72")
    return parse_target(name)


def _board(address: str, key: str, spec: TargetSpec) -> dict[str, Any]:
    return {"address": address, "key": key, "target": spec.as_dict()}
