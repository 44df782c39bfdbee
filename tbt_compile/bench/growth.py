"""The scaling benchmark: cost over source length, new tokens and batch size, varied one at a time.

Every point is a run of the generation benchmark; models are built once for all points. Points are written to
a file as they are measured, and an interrupted run resumes from it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.engines import get_engine
from tbt_compile.bench.generation import BenchSettings, jobs_of, take_turns
from tbt_compile.bench.job import Job, Row
from tbt_compile.bench.worker_process import Worker, build
from tbt_compile.errors import TbtError
from tbt_compile.progress import Progress
from tbt_compile.storage.atomic_write import atomic_write, make_parents

WORK = ("source_length", "new_tokens", "batch")
"""The varied fields of `BenchSettings`."""
_SAME = ("cpu", "llvm_cpu", "vector_bits", "cores", "system", "python", "versions")


@dataclass(frozen=True)
class GrowthSettings:
    """Settings of the scaling benchmark.

    Attributes:
        base: the point to vary from; its recipes, and the other engines with `peers`, are the curves.
        source_length, new_tokens, batch: values of each field, with the other two as in the base.
    """

    base: BenchSettings = field(default_factory=lambda: BenchSettings(peers=False, source_length=256))
    source_length: tuple[int, ...] = (64, 128, 256, 512, 1024)
    new_tokens: tuple[int, ...] = (16, 64, 256, 512)
    batch: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def points(self) -> list[BenchSettings]:
        """The base and its variations, checked and without duplicates.

        Raises:
            TbtError: a setting is invalid.
        """
        found = {self.base: None}
        for work in WORK:
            found |= {replace(self.base, **{work: value}): None for value in getattr(self, work)}
        for point in found:
            point.check()
        return list(found)


def run(
    settings: GrowthSettings, file: Path | None = None, progress: Progress = lambda _text, _share: None
) -> dict[str, Any]:
    """Measure the points that the file does not hold yet.

    Args:
        settings: what to measure.
        file: to resume from and to write to; None for neither.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        {"conditions": ..., "settings": ..., "points": [...]}, ready for JSON. A point is a row of the
        generation benchmark with its source_length, new_tokens and batch, and decoder_ms.

    Raises:
        TbtError: a setting is invalid, or the file is from another machine or has other settings.
    """
    wanted = settings.points()
    result = _earlier(settings, file)
    points: list[dict[str, Any]] = result["points"]
    done = {_key(point["name"], point) for point in points}
    built: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="tbt-growth-") as folder:
        for index, point in enumerate(wanted):
            jobs = jobs_of(point, Path(folder))
            missing = [job for job in jobs if _key(job.name, asdict(point)) not in done]

            def tell(text: str, share: float, index: int = index, point: BenchSettings = point) -> None:
                progress(f"{_words(point)}: {text}", (index + share) / len(wanted))

            for row in _measure(point, missing, built, tell):
                values = {work: getattr(point, work) for work in WORK}
                decoder_ms = row.token_ms * point.new_tokens
                points.append({**values, "decoder_ms": decoder_ms, **asdict(row)})
            _write(result, file)
    return result


def _measure(point: BenchSettings, jobs: Sequence[Job], built: set[str], progress: Progress) -> list[Row]:
    """Measure one point of every job; a build does not depend on the point, so it is done once per engine."""
    rows = []
    ready: list[tuple[Row, Worker]] = []
    with ExitStack() as workers:
        for job in jobs:
            row = Row(job.name, skipped=get_engine(job.engine).available(job))
            rows.append(row)
            if row.skipped:
                continue
            if job.name not in built:
                progress(f"preparing {job.name}", 0.0)
                build(job)
                built.add(job.name)
            ready.append((row, workers.enter_context(closing(Worker(job)))))
        take_turns(ready, point, progress)
    return rows


def _key(name: str, point: dict[str, Any]) -> tuple[Any, ...]:
    return name, *(point[work] for work in WORK)


def _words(point: BenchSettings) -> str:
    return f"source {point.source_length}, new {point.new_tokens}, batch {point.batch}"


def _earlier(settings: GrowthSettings, file: Path | None) -> dict[str, Any]:
    """The result in the file, or one without points."""
    fresh: dict[str, Any] = json.loads(
        json.dumps({"conditions": conditions(), "settings": asdict(settings), "points": []})
    )
    if file is None or not file.exists():
        return fresh
    try:
        earlier: dict[str, Any] = json.loads(file.read_text())
        then, now = earlier["conditions"], fresh["conditions"]
        other = [name for name in _SAME if then[name] != now[name]]
        base, new_base = earlier["settings"]["base"], fresh["settings"]["base"]
        # Other recipes and peers add curves, and other values of the varied fields add points.
        other += [name for name in base if name not in ("recipes", "peers") and base[name] != new_base[name]]
        # Engines that were not installed and points lost in noise are tried again.
        points = [point for point in earlier["points"] if not point["skipped"]]
    except OSError as error:
        raise TbtError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TbtError(f"{file} was not written by `tbt bench growth`: name another file") from error
    if other:
        raise TbtError(
            f"{file} was measured with another {', '.join(other)}: name another file, or delete it"
        )
    return {**fresh, "conditions": then, "points": points}


def _write(result: dict[str, Any], file: Path | None) -> None:
    if file is None:
        return
    make_parents(file)
    with atomic_write(file) as draft:
        draft.write_text(json.dumps(result, indent=1) + "\n")
