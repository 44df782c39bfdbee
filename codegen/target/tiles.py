"""Register tiles: the rows and column vectors that an inner loop keeps in registers.

The best tile depends on the instruction set and the kernel; `tbt tune` measures it. Tiles are looked up in
this order:

    1. the tile forced by `use`, within its `with` block
    2. the user's file, $TBT_TILES or ~/.cache/tbt-compile/tiles.json
    3. `tiles.json` in this folder, which is part of the package
    4. the kernel's default, from the number of registers, for instruction sets without measurements

A tile file maps the class of an instruction set to kernels, and kernels to {"rows": ..., "vectors": ...} and
details of the measurement. Kernels are keyed by family and encodings, such as "planes ternary*ternary".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tbt_compile.codegen.target.isa import Isa
from tbt_compile.errors import FormatError
from tbt_compile.storage.atomic_write import atomic_write, make_parents
from tbt_compile.storage.os_errors import reading

PACKAGED = Path(__file__).with_name("tiles.json")
ROWS = (1, 2, 4, 8)
VECTORS = (1, 2, 4)

Tiles = dict[str, dict[str, Any]]
_forced: dict[str, Tile] = {}
_records: list[dict[str, str]] = []


@dataclass(frozen=True)
class Tile:
    """Rows (a power of two) and column vectors of an inner loop."""

    rows: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.vectors}"


def isa_class(isa: Isa) -> str:
    """The key of an instruction set in tile files, and in the manifests of compiled models.

    >>> isa_class(Isa("haswell", frozenset({"avx2"})))
    '256 bits, 16 registers, maddubs'
    """
    further = ", popcount" if isa.has_popcount else ", i8mm" if isa.has("i8mm") else ""
    return f"{isa.vector_bits} bits, {isa.registers} registers, {isa.dot}{further}"


def tile(isa: Isa, kernel: str, default: Tile) -> Tile:
    """The tile of a kernel: forced, measured or default.

    Args:
        isa: instruction set.
        kernel: key of the kernel in tile files.
        default: the tile if none was measured.

    Returns:
        The tile.
    """
    chosen = _forced.get(kernel) or _measured(isa, kernel) or default
    for record in _records:
        record[kernel] = str(chosen)
    return chosen


def _measured(isa: Isa, kernel: str) -> Tile | None:
    for path in (user_path(), PACKAGED):
        found = read(path).get(isa_class(isa), {}).get(kernel)
        if found is not None:
            return Tile(found["rows"], found["vectors"])
    return None


@contextmanager
def use(kernel: str, choice: Tile) -> Iterator[None]:
    """Force the tile of a kernel within the `with` block."""
    outer = _forced.get(kernel)
    _forced[kernel] = choice
    try:
        yield
    finally:
        if outer is None:
            del _forced[kernel]
        else:
            _forced[kernel] = outer


@contextmanager
def recording() -> Iterator[dict[str, str]]:
    """Record the tiles of all kernels that are built within the `with` block, by kernel."""
    record: dict[str, str] = {}
    _records.append(record)
    try:
        yield record
    finally:
        _records[:] = [other for other in _records if other is not record]


def user_path() -> Path:
    """The tile file that `tbt tune` writes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TBT_TILES") or cache / "tbt-compile" / "tiles.json")


def read(path: Path) -> Tiles:
    """Read a tile file; {} if it does not exist.

    Raises:
        FormatError: the file is not a tile file, or the system refuses to read it.
    """
    with reading(path):
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        except PermissionError:
            if os.environ.get("TBT_TILES"):
                raise
            return {}  # a home that this user may not enter, as in a container: no file of theirs is there
        return _parse(path, changed)


def write(path: Path, isa: Isa, results: Mapping[str, dict[str, Any]]) -> None:
    """Merge the results for one instruction set into a tile file, atomically.

    Args:
        path: the file; created if missing.
        isa: instruction set.
        results: by kernel, {"rows": ..., "vectors": ..., "measured": ...}.

    Raises:
        FormatError: the file exists and is not a tile file.
    """
    tiles = {name: dict(kernels) for name, kernels in read(path).items()}
    tiles.setdefault(isa_class(isa), {}).update(results)
    make_parents(path)
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(tiles, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@lru_cache(maxsize=4)
def _parse(path: Path, _changed: int) -> Tiles:
    wrong = f"{path} is not a tile file: remove it, or regenerate it with `tbt tune`"
    try:
        tiles = json.loads(path.read_text(encoding="utf-8"))
        sizes = [
            (entry["rows"], entry["vectors"]) for kernels in tiles.values() for entry in kernels.values()
        ]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise FormatError(wrong) from error
    whole = all(type(size) is int for pair in sizes for size in pair)  # 4.0 and True are in ROWS too
    if not whole or not all(rows in ROWS and vectors in VECTORS for rows, vectors in sizes):
        raise FormatError(f"{wrong} (rows may be {ROWS} and vectors {VECTORS})")
    found: Tiles = tiles
    return found
