"""One compiled model for all of these tests: what they measure does not depend on how it was quantized."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from once import once

from tbt_compile.bench import worker_process
from tbt_compile.bench.engines import compiled
from tbt_compile.bench.job import Job

RECIPE = "1-1-8"


@pytest.fixture(scope="session")
def compiled_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of this package's engine, with what a worker process has built for it in its folder."""
    job = Job("tbt", RECIPE, "tiny", 1, 24, 3, "host", "")
    folder = once(
        tmp_path_factory,
        "bench-tbt",
        lambda folder: worker_process.build(Job(**{**job.to_dict(), "folder": str(folder)})),
    )
    return Job(**{**job.to_dict(), "folder": str(folder)})


@pytest.fixture
def build(compiled_job: Job) -> Callable[[Job], None]:
    """`build` of a worker process, but for this package's engine it copies what was built already."""

    def copied(job: Job) -> None:
        if job.engine != "tbt":
            worker_process.build(job)
            return
        assert (job.recipe, job.shape, job.clock, job.shortlist) == (RECIPE, "tiny", False, 0)
        assert Path(job.folder).is_dir()
        shutil.copytree(compiled.folder_of(compiled_job), compiled.folder_of(job))

    return copied
