"""Parts of a job on the machines of a Ray cluster, by Ray Data.

Each worker maps the same compiled folder, which has to be at the same path on every machine. Ray runs a part
again whose worker or machine is lost; this process writes every part, and so each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tbt_compile.errors import TbtError
from tbt_compile.extras import require_extra
from tbt_compile.jobs.parts import Part
from tbt_compile.jobs.writer import TextWriter
from tbt_compile.storage.checksums import ALL, Checks


class _Worker:
    """A `TextWriter` as Ray Data calls it: with a part as a row."""

    def __init__(self, folder: str, options: dict[str, Any], checks: Checks) -> None:
        self._writer = TextWriter(folder, options, checks)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number, texts = self._writer.write((int(row["number"]), list(row["texts"])))
        return {"number": number, "texts": texts}


def on_ray(
    folder: Path,
    options: dict[str, Any],
    parts: Sequence[Part],
    workers: int,
    address: str | None = None,
    checks: Checks = ALL,
) -> Iterator[Part]:
    """Write parts on a cluster.

    Args:
        folder: compiled, at this path on every machine.
        options: of `generate_many`; `num_threads` is the CPUs of a worker.
        parts: the texts.
        workers: processes over the whole cluster.
        address: of the cluster; None: that of the environment, else a cluster of this machine alone.
        checks: of the folder on every machine; a public key has to be at the same path there.

    Yields:
        The outputs, as parts are done.

    Raises:
        MissingPackageError: Ray is not installed.
        TbtError: the cluster cannot be reached, or has too few CPUs; or a text cannot be written.
    """
    with require_extra():
        import ray
    threads = options.get("num_threads") or 1
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        raise TbtError(f"the Ray cluster at {address} cannot be reached ({error}): start it first") from error
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if workers * threads > cpus:
        raise TbtError(
            f"{workers} workers of {threads} threads: the cluster has {cpus} CPUs; ask for fewer workers"
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": number, "texts": texts} for number, texts in parts]
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Worker,
        fn_constructor_args=(str(folder.resolve()), {**options, "num_threads": threads}, checks),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=threads,
    )
    try:
        for row in written.iter_rows():
            yield int(row["number"]), list(row["texts"])
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, TbtError) else None
        raise cause or TbtError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error
