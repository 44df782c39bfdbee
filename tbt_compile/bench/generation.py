"""The generation benchmark: one batch of texts, greedy or beam search, one row per engine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.engines import engines_for, get_engine
from tbt_compile.bench.job import Job, Row
from tbt_compile.bench.model_shapes import get_shape
from tbt_compile.bench.worker_process import Worker, build
from tbt_compile.codegen.target.host import check_runnable
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.errors import TbtError
from tbt_compile.progress import Progress
from tbt_compile.recipe import Recipe

_MIB = 2**20
_CLOCKS = ("s", "cpu_s")
_TURN_SECONDS = 1.0
LENGTHS = ("equal", "mixed")
BITNET_RECIPES = ("8-2-8", "32-2-8")
"""A BitNet checkpoint with its embedding and attention quantized to 8 bits, and as it is."""


@dataclass(frozen=True)
class BenchSettings:
    """Settings of the generation benchmark.

    Attributes:
        shape: a name in `model_shapes.SHAPES`.
        recipes: E-W-A notations, one row each.
        peers: measure the other engines too.
        threads: of every engine.
        source_length: tokens of every source text; the maximum with mixed lengths.
        new_tokens: tokens to generate for every text.
        batch: texts per batch.
        beams: of the search; 1 is greedy.
        lengths: "equal", or "mixed": random from a quarter of `source_length` to all of it.
        repeats: turns of every row, each of a second or one measurement; figures are medians over all turns.
        target: CPU to compile for; it has to run on this machine.
        shortlist: size of the output vocabulary of a second row per recipe; 0 for no such rows.
    """

    shape: str = "bart-base"
    recipes: tuple[str, ...] = ("1-1-1", "2-2-2", "2-2-8")
    peers: bool = True
    threads: int = 1
    source_length: int = 512
    new_tokens: int = 64
    batch: int = 1
    beams: int = 1
    lengths: str = "equal"
    repeats: int = 5
    target: str = "host"
    shortlist: int = 0

    def check(self) -> None:
        """Check the settings before minutes of measuring.

        Raises:
            TbtError: a setting is invalid.
        """
        shape = get_shape(self.shape)
        for recipe in self.recipes:
            Recipe.parse(recipe)
            if shape.family == "bitnet" and recipe not in BITNET_RECIPES:
                raise TbtError(
                    f"shape {self.shape!r} is a checkpoint with ternary weights and 8-bit activations, which "
                    f"no recipe makes {recipe!r}: expected {' or '.join(BITNET_RECIPES)}"
                )
        for name in ("threads", "source_length", "new_tokens", "batch", "beams", "repeats"):
            if getattr(self, name) < 1:
                raise TbtError(f"{name} must be at least 1, not {getattr(self, name)}")
        # The decoder reads the start token, or the prompt, and `new_tokens` tokens to generate one more.
        before = self.source_length if shape.decoder_only else 1
        for name, positions in (("source_length", 0), ("new_tokens", before)):
            if getattr(self, name) + positions > shape.positions:
                after = f" after a prompt of {before}" if positions > 1 else ""
                raise TbtError(
                    f"{name} {getattr(self, name)}{after} is too long for shape {self.shape!r}, which has "
                    f"{shape.positions} positions"
                )
        if not 0 <= self.shortlist <= shape.vocab_size:
            raise TbtError(f"shortlist must be from 0 to {shape.vocab_size}, not {self.shortlist}")
        if self.lengths not in LENGTHS:
            raise TbtError(f"unknown lengths {self.lengths!r}; known are {', '.join(LENGTHS)}")
        if self.lengths == "mixed" and self.batch == 1:
            raise TbtError("lengths 'mixed' needs a batch of at least 2; name one with --batch")
        if not self.recipes and not self.peers:
            raise TbtError("nothing to measure: name a recipe or leave the peers in")
        check_runnable(parse_target(self.target))


def run(settings: BenchSettings, progress: Progress = lambda _text, _share: None) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        settings: what to measure.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        {"conditions": ..., "settings": ..., "rows": [...]}, ready for JSON.
    """
    settings.check()
    with tempfile.TemporaryDirectory(prefix="tbt-bench-") as folder, ExitStack() as workers:
        rows: list[Row] = []
        ready: list[tuple[Row, Worker]] = []
        jobs = jobs_of(settings, Path(folder))
        for index, job in enumerate(jobs):
            row = Row(job.name, skipped=get_engine(job.engine).available(job))
            rows.append(row)
            if row.skipped:
                continue
            progress(f"preparing {row.name}", 0.4 * index / len(jobs))
            start = perf_counter()
            build(job)
            row.build_s = perf_counter() - start
            ready.append((row, workers.enter_context(closing(Worker(job)))))
        take_turns(ready, settings, lambda text, share: progress(text, 0.4 + 0.6 * share))
    return {"conditions": conditions(), "settings": asdict(settings), "rows": [asdict(row) for row in rows]}


def jobs_of(settings: BenchSettings, folder: Path) -> list[Job]:
    """The jobs of all rows, each with a subfolder of `folder`, which may exist from an earlier call."""
    peers = (
        [name for name in engines_for(get_shape(settings.shape)) if name != "tbt"] if settings.peers else []
    )
    chosen = [(engine, "", 0) for engine in peers]
    counts = [0, settings.shortlist] if settings.shortlist else [0]
    chosen += [("tbt", recipe, count) for recipe in settings.recipes for count in counts]
    jobs = []
    for index, (engine, recipe, count) in enumerate(chosen):
        place = folder / str(index)
        place.mkdir(exist_ok=True)
        jobs.append(replace(job_of(settings, engine, recipe, place), shortlist=count))
    return jobs


def job_of(settings: BenchSettings, engine: str, recipe: str, folder: Path, clock: bool = False) -> Job:
    """The job of one row.

    Args:
        settings: of the benchmark.
        engine: a name in `engines.ENGINES`.
        recipe: E-W-A notation; "" for engines without recipes.
        folder: for the engine's files.
        clock: time single kernels.
    """
    return Job(
        engine=engine,
        recipe=recipe,
        shape=settings.shape,
        threads=settings.threads,
        source_length=settings.source_length,
        new_tokens=settings.new_tokens,
        target=settings.target,
        folder=str(folder),
        batch=settings.batch,
        beams=settings.beams,
        mixed=settings.lengths == "mixed",
        clock=clock,
    )


def take_turns(ready: Sequence[tuple[Row, Worker]], settings: BenchSettings, progress: Progress) -> None:
    """Measure all rows in turns and fill them with the medians.

    Args:
        ready: rows to fill, with their workers.
        settings: of the benchmark.
        progress: called with a description and the share done, from 0 to 1.
    """
    for repeat in range(settings.repeats):
        for index, (row, worker) in enumerate(ready):
            done = (repeat * len(ready) + index) / (settings.repeats * len(ready))
            progress(f"measuring {row.name} ({repeat + 1} of {settings.repeats})", done)
            _turn(row, worker, settings.new_tokens)
    for row, worker in ready:
        _fill(row, worker, settings)


def _turn(row: Row, worker: Worker, tokens: int) -> None:
    """Measure one row for at least a second: a fast engine's steps are short and noisy."""
    spent = 0.0
    while spent < _TURN_SECONDS:
        for name, count in (("first_token", 1), ("all_tokens", tokens + 1)):
            measured = worker.measure(count)
            spent += measured[0]
            for unit, seconds in zip(_CLOCKS, measured, strict=True):
                row.samples.setdefault(f"{name}_{unit}", []).append(seconds)


def _fill(row: Row, worker: Worker, settings: BenchSettings) -> None:
    # The engines have no common way to run just the encoder; two output lengths give its time for all.
    row.token_ms, row.encoder_ms = _token_and_encoder_ms(row, "s", settings.new_tokens)
    row.token_cpu_ms, row.encoder_cpu_ms = _token_and_encoder_ms(row, "cpu_s", settings.new_tokens)
    row.size_mib = worker.size_bytes / _MIB
    row.peak_mib = worker.peak_bytes / _MIB
    row.load_s = worker.load_seconds
    if row.token_ms > 0:
        row.tokens_per_second = settings.batch * 1000 / row.token_ms
    else:
        row.skipped = "lost in noise: use more new tokens, more repeats or a quieter machine"


def _token_and_encoder_ms(row: Row, unit: str, tokens: int) -> tuple[float, float]:
    first, everything = row.samples[f"first_token_{unit}"], row.samples[f"all_tokens_{unit}"]
    token = median(long - short for long, short in zip(everything, first, strict=True)) / tokens
    return 1000 * token, 1000 * (median(first) - token)


def best_int8_peer(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The measured int8 row with the lowest time per token; None without one."""
    measured = [row for row in rows if "int8" in row["name"] and not row["skipped"]]
    return min(measured, key=lambda row: row["token_ms"], default=None)
