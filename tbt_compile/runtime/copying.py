"""Copies and pickles of compiled models.

A copy in the same process shares libraries and weights, which are read-only. A pickle names the folder that
the model was loaded from, as long as that folder is unchanged. Otherwise it holds the files that `save` would
write.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tbt_compile.codegen.target.host import is_runnable
from tbt_compile.errors import FormatError
from tbt_compile.storage import model_folder

if TYPE_CHECKING:
    from tbt_compile.runtime.compiled_library import CompiledLibrary

_FOLDER = "model"


class Origin(NamedTuple):
    """The folder that a model was loaded from, and the checksum of the manifest that it held."""

    folder: Path
    checksum: str

    def unchanged(self, kind: str) -> bool:
        """Return whether the folder still holds the same model, undamaged."""
        try:
            manifest = model_folder.read_manifest(self.folder, kind)
        except (FormatError, OSError):
            return False
        return bool(manifest[model_folder.CHECKSUM] == self.checksum)


def reduced(model: CompiledLibrary, origin: Origin | None) -> tuple[Any, ...]:
    """Return how to rebuild a model, as `__reduce__` does.

    Args:
        model: a compiled model.
        origin: the folder that it was loaded from, if any.

    Returns:
        A function and its arguments.

    Raises:
        TargetError: the model was never saved, and there is no linker for its target.
    """
    if origin is not None and origin.unchanged(model.KIND):
        return _from_folder, (type(model), str(origin.folder), origin.checksum, model.num_threads)
    with tempfile.TemporaryDirectory() as work:
        folder = model.save(Path(work) / _FOLDER)
        files = {
            str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }
    return _from_files, (type(model), files, model.num_threads)


def _from_folder(
    kind: type[CompiledLibrary], folder: str, checksum: str, num_threads: int | None
) -> CompiledLibrary:
    origin = Origin(Path(folder), checksum)
    if not origin.unchanged(kind.KIND):
        raise FormatError(
            f"{folder} no longer holds the model that was pickled by that name: restore the folder, or "
            "pickle the model again"
        )
    return _read(kind, origin.folder, num_threads)


def _from_files(
    kind: type[CompiledLibrary], files: dict[str, bytes], num_threads: int | None
) -> CompiledLibrary:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / _FOLDER
        for name, contents in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(contents)
        return _read(kind, folder, num_threads)  # what is mapped outlives its file


def _read(kind: type[CompiledLibrary], folder: Path, num_threads: int | None) -> CompiledLibrary:
    """Load a folder; like the model that was pickled, it may be for another machine."""
    model = kind.read(folder, num_threads)
    if is_runnable(model.target):
        model._bound()
    return model
