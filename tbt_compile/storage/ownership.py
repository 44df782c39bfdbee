"""Which folders may be replaced: missing or empty ones, and those that hold nothing but what we wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tbt_compile.errors import FormatError
from tbt_compile.storage.locks import is_abandoned

DRAFT = ".tbt-draft-"
"""Prefix of the names of folders that are being written; see `folder_draft`."""
OLD = f"{DRAFT}old"
"""Folder in a draft, for the files that it replaces one by one."""
# What file managers and file systems add to any folder.
_SYSTEM = {"lost+found", ".DS_Store", "desktop.ini", "Thumbs.db"}


@dataclass(frozen=True)
class Layout:
    """How folders of a kind are recognised.

    Attributes:
        manifest: name of the file that lists the others; it is written last.
        listed: returns the names of all files that belong to a folder, its manifest's too, or None if we did
            not write its manifest.
    """

    manifest: str
    listed: Callable[[Path], frozenset[str] | None]


def require_ours(path: Path, layout: Layout, named: str | Path) -> None:
    """Refuse a path whose contents would be lost if a folder were written there.

    Args:
        path: without symbolic links.
        layout: of the folders that may be replaced.
        named: what the user calls it.

    Raises:
        FormatError: there is a file, a folder that we did not write, or one with further files in it.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir():
        present = set(_entries(path))
        listed = belonging(path, layout)
        foreign = present - _with_parents(listed)
        if not foreign:
            return
        if listed:
            raise FormatError(
                f"{named} holds {min(foreign)}, which is not part of the model saved there: move it away or "
                "choose another place"
            )
    raise FormatError(f"{named} exists and is not a model folder: remove it or choose another place")


def no_model(path: Path, manifest: str) -> FormatError:
    """The error for a path where no model of ours is, with what to do if one of transformers is there.

    Args:
        path: where one was looked for.
        manifest: the file that is missing.
    """
    if not path.exists():
        return FormatError(f"{path} is not a model folder: it does not exist")
    if not (path / "config.json").is_file():
        return FormatError(f"{path} is not a model folder: it has no {manifest}")
    return FormatError(
        f"{path} is not a model folder: it has no {manifest}; it is a checkpoint of transformers, which "
        "`tbt lower` compiles, and `tbt_compile.load_prepared` opens if a prepared model was saved there"
    )


def require_nothing_else(path: Path, layout: Layout) -> None:
    """Refuse a folder with files that its manifest does not list, which nothing vouches for.

    Hidden ones are let be: nothing of ours reads them, and version control and the hub keep some there.

    Args:
        path: the folder.
        layout: of it.

    Raises:
        FormatError: there is one; names it.
    """
    further = set(_entries(path)) - _with_parents(layout.listed(path) or frozenset())
    further = {name for name in further if not name.startswith(".")}
    if further:
        raise FormatError(f"{path} holds {min(further)}, which its manifest does not list: remove it")


def belonging(path: Path, layout: Layout) -> frozenset[str]:
    """Names of all files that we wrote to a folder, by its manifest and those of abandoned drafts in it.

    A writer that was killed while it replaced files one by one leaves its draft, with the manifests of the
    new ones and of the old ones.
    """
    drafts = list(filter(is_abandoned, drafts_in(path)))
    listed = map(layout.listed, (path, *drafts, *(draft / OLD for draft in drafts)))
    return frozenset().union(*(names for names in listed if names is not None))


def drafts_in(folder: Path) -> list[Path]:
    """The drafts in a folder, of writers at work and of interrupted ones."""
    return sorted(path for path in folder.glob(f"{DRAFT}*") if path.is_dir() and not path.is_symlink())


def _entries(folder: Path) -> Iterator[str]:
    """Relative names of all files, links and folders in a folder, except drafts and files of the system."""

    def fail(error: OSError) -> None:
        raise error

    for base, folders, files in os.walk(folder, onerror=fail):
        if Path(base) == folder:
            folders[:] = [name for name in folders if not name.startswith(DRAFT) and name not in _SYSTEM]
        for name in (*folders, *files):
            if name not in _SYSTEM:
                yield Path(base, name).relative_to(folder).as_posix()


def _with_parents(names: frozenset[str]) -> set[str]:
    return {*names, *(str(parent) for name in names for parent in PurePosixPath(name).parents)}
