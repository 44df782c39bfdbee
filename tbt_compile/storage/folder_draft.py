"""Atomic folder writes: a folder is written as a draft and put in place as a whole.

The draft is a sibling of the folder. When it is complete, the two are exchanged: a reader that opens the path
finds the old folder or the new one, of several writers the last one wins, and what was taken out is deleted
once it is certain that it held nothing but files of ours. Symbolic links are followed.

Some folders cannot be exchanged: a mount point, the current directory, one in a parent that may not be
written. There the draft is inside the folder and its files replace the old ones one by one. Meanwhile there
is no manifest: `consistent_read` waits, other readers find no model folder. A failure puts the old files
back.

A process that is killed leaves a draft, `.tbt-draft-...`, which the next save in that place removes. If it
was replacing files one by one, loading the folder is refused until then.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tbt_compile.storage.exchange import put_in_place
from tbt_compile.storage.locks import held, is_abandoned, locked
from tbt_compile.storage.os_errors import require_makeable, writing
from tbt_compile.storage.ownership import DRAFT, OLD, Layout, belonging, drafts_in, require_ours

_FIXED = (errno.EBUSY, errno.EXDEV)  # what renaming a mount point, or an image layer of a container, gives


@contextmanager
def folder_draft(path: str | Path, layout: Layout) -> Iterator[Path]:
    """Yield an empty folder to write to, with the manifest; it becomes `path` when the block ends.

    If the block fails, everything is as it was.

    Args:
        path: of the folder; its parents are made.
        layout: of the folders that may be replaced.

    Raises:
        FormatError: something else is at `path` (before the block is entered, or since).
        WriteError: the system refuses.
    """
    with writing(path):
        place = require_replaceable(path, layout)
        home = _home(place)
        if home != place:
            with locked(home):
                _sweep(home)
        with _parents(place), _draft(home) as draft:
            yield draft
            if draft.parent == place:
                replace_contents(draft, place, layout)
                return
            try:
                _replace(draft, place, layout)
            except OSError as error:
                if error.errno not in _FIXED:
                    raise
                with _draft(place) as inside:
                    for part in draft.iterdir():
                        shutil.move(part, inside)
                    replace_contents(inside, place, layout)


def require_replaceable(path: str | Path, layout: Layout) -> Path:
    """Check that a folder may be written at `path`; returns it without symbolic links.

    Raises:
        FormatError: something else is there.
        WriteError: the folder may not be read, changed or made.
    """
    with writing(path):
        place = Path(os.path.realpath(path))
        with locked(place):
            require_ours(place, layout, path)
        require_makeable(place if place.is_dir() else place.parent)
        return place


def replace_contents(draft: Path, place: Path, layout: Layout) -> None:
    """Replace the files of a folder by those of a draft inside it, one by one.

    The manifest goes first and comes last: between two looks at the same manifest nothing has changed.

    Args:
        draft: a complete folder.
        place: the folder, whose own name and identity stay.
        layout: of both.

    Raises:
        FormatError: the folder has come to hold something else.
        OSError: the system refuses; the old files are back.
    """
    with locked(place):
        require_ours(place, layout, place)
        new = {file.relative_to(draft).as_posix() for file in draft.rglob("*") if not file.is_dir()}
        names = sorted((belonging(place, layout) | new) - {layout.manifest})
        done: list[tuple[Path, Path]] = []
        try:
            if os.path.lexists(place / layout.manifest):
                _move(place / layout.manifest, draft / OLD / layout.manifest, done)
            for name in names:
                if os.path.lexists(place / name):
                    _move(place / name, draft / OLD / name, done)
                if name in new:
                    _move(draft / name, place / name, done)
            os.replace(draft / layout.manifest, place / layout.manifest)
        except BaseException:
            for source, target in reversed(done):
                os.replace(target, source)
            raise
        finally:
            _remove_empty_folders(place, names)
        _sweep(place)


def _replace(draft: Path, place: Path, layout: Layout) -> None:
    """Exchange a draft and the folder beside it; what comes out is checked, and else put back."""
    with locked(place):
        require_ours(place, layout, place)
        if place.is_dir():
            if not all(map(is_abandoned, drafts_in(place))):  # of a writer whose current directory it is
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))
            shutil.copymode(place, draft)
        put_in_place(draft, place)
        try:
            require_ours(draft, layout, place)
        except BaseException:
            put_in_place(draft, place)
            raise


@contextmanager
def _draft(home: Path) -> Iterator[Path]:
    """Make a draft in a folder, for the block."""
    with ExitStack() as stack:
        with locked(home):  # nobody sweeps before it is held
            draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=home))
            stack.callback(shutil.rmtree, draft, ignore_errors=True)
            stack.enter_context(held(draft))
        draft.chmod(0o755)
        yield draft


def _home(place: Path) -> Path:
    """Where the draft is made: in the parent of a folder, or inside one that cannot be exchanged."""
    if not place.is_dir():
        return place.parent
    with suppress(OSError):
        here = Path.cwd()
        if here == place or place in here.parents:
            return place
    fixed = os.path.ismount(place) or not os.access(place.parent, os.W_OK | os.X_OK)
    return place if fixed else place.parent


@contextmanager
def _parents(place: Path) -> Iterator[None]:
    """Make the parents of a folder; removes them again if the block fails."""
    missing = [parent for parent in place.parents if not parent.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def _sweep(home: Path) -> None:
    """Remove the drafts of interrupted writers."""
    for draft in drafts_in(home):
        if is_abandoned(draft):
            shutil.rmtree(draft, ignore_errors=True)


def _move(source: Path, target: Path, done: list[tuple[Path, Path]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    done.append((source, target))


def _remove_empty_folders(place: Path, names: list[str]) -> None:
    for folder in sorted({parent for name in names for parent in Path(name).parents}, reverse=True):
        if folder != Path():
            with suppress(OSError):
                (place / folder).rmdir()
