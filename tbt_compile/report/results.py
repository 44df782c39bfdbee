"""Benchmarks and texts from the files that `tbt bench generate --json` and `tbt run --json` wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tbt_compile.bench.job import work_title
from tbt_compile.errors import DataError
from tbt_compile.report.sections import Benchmark, Samples

_FIGURES = ("token_ms", "encoder_ms", "size_mib", "peak_mib")


def benchmark(path: Path) -> Benchmark:
    """Read one run of the generation benchmark.

    Raises:
        DataError: the file cannot be read, or `tbt bench generate --json` did not write it.
    """
    content = _json(path)
    try:
        settings, machine = content["settings"], content["conditions"]
        rows = tuple(_row(row) for row in content["rows"])
        versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
        load = machine["load_average"]
        conditions = f"{machine['cpu']} ({machine['llvm_cpu']}), load {load}, {versions}"
        title = work_title(settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no benchmark ({type(error).__name__}: {error}): expected what `tbt bench generate "
            "--json` writes without --profile"
        ) from error
    written = time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
    return Benchmark(title, f"{conditions}; file of {written}", rows)


def samples(files: Mapping[str, Path]) -> Samples:
    """Put the texts of several models side by side, in the order of the sources of the first.

    Args:
        files: what `tbt run --json` wrote, by the name that the model is to have.

    Raises:
        DataError: a file cannot be read, or holds something else.
    """
    texts: dict[str, dict[str, str]] = {}
    for name, path in files.items():
        try:
            texts[name] = {str(each["source"]): str(each["text"]) for each in _json(path)["texts"]}
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path} holds no texts ({type(error).__name__}: {error}): expected what `tbt run --json` "
                "writes"
            ) from error
    sources: Iterable[str] = dict.fromkeys(source for found in texts.values() for source in found)
    rows = tuple((source, tuple(found.get(source) for found in texts.values())) for source in sources)
    return Samples(tuple(texts), rows)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """The figures that are shown."""
    return {"name": row["name"], "skipped": row["skipped"], **{key: row[key] for key in _FIGURES}}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): expected a JSON file") from error
