"""A folder of results that are slow to compute, by key, shared by all processes of a user.

Every file is named after its key and holds the SHA-256 of key and content, then the content. It appears in
one step, so readers need no lock; one that is damaged is dropped and computed again. The least recently used
files are removed when the folder has become too large. A folder that cannot be read or written only costs
time: that is logged as a warning, once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from tbt_compile.errors import TbtError, WriteError
from tbt_compile.storage.atomic_write import atomic_write

log = logging.getLogger(__name__)

FOLDER = "TBT_CACHE"
"""The environment variable with the path of the folder, or `OFF`."""
LIMIT = "TBT_CACHE_MIB"
"""The environment variable with the largest size of the folder, in MiB."""
OFF = "off"

_DEFAULT_MIB = 1024
_KEPT = 0.75  # the part of the limit that is left after files were removed, so that this is rare
_ABANDONED = 3600  # seconds after which the draft of a killed process is removed
_DRAFT = ".part"
_OURS = re.compile(rf"[0-9a-f]{{64}}|\.[0-9a-f]{{32}}\.[0-9a-f]{{16}}\{_DRAFT}")
_DIGEST = hashlib.sha256().digest_size
_sizes: dict[Path, int] = {}
_warned: set[tuple[Path, str]] = set()


class ContentCache:
    """A cache in one folder; keys are 64 hexadecimal digits, see `key_of`.

    Args:
        folder: created with the first file; only its owner may enter it, since what it holds is run.
        limit: its largest size in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def read(self, key: str) -> bytes | None:
        """The content stored for a key; None if there is none, or if it is damaged."""
        path = self.folder / key
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        content = stored[_DIGEST:]
        if _digest(key, content) != stored[:_DIGEST]:
            log.warning("%s is damaged, and is made again", path)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def write(self, key: str, content: bytes) -> None:
        """Store the content for a key."""
        if len(content) + _DIGEST > self.limit:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self.folder / key) as draft:
                draft.write_bytes(_digest(key, content) + content)
            self._bound(len(content) + _DIGEST)
        except (OSError, WriteError) as error:
            self._warn("write", error)

    def _bound(self, added: int) -> None:
        """Remove the least recently used files if the folder is too large.

        The size is known from the last time that the folder was listed, and what this process wrote since.
        """
        known = _sizes.get(self.folder)
        size = sum(size for _, size, _ in self._files()) if known is None else known + added
        if size > self.limit:
            size = 0
            for used, one, path in sorted(self._files(), reverse=True):
                is_draft = path.suffix == _DRAFT
                if time.time() - used > _ABANDONED if is_draft else size + one > self.limit * _KEPT:
                    path.unlink(missing_ok=True)
                else:
                    size += one
        _sizes[self.folder] = size

    def _files(self) -> list[tuple[float, int, Path]]:
        """When every file of the cache was last used, its size, and its path; other files are left alone."""
        found = []
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                with suppress(FileNotFoundError):  # another process removed it
                    facts = path.stat()
                    found.append((facts.st_mtime, facts.st_size, path))
        return found

    def _warn(self, action: str, error: Exception) -> None:
        if (self.folder, action) not in _warned:
            _warned.add((self.folder, action))
            log.warning(
                "the cache %s cannot be %s (%s): kernels are compiled again each time; set %s to another "
                "folder, or to %s",
                self.folder,
                "read" if action == "read" else "written",
                error,
                FOLDER,
                OFF,
            )


def user_cache() -> ContentCache | None:
    """The cache that the environment names, by default in the user's cache folder; None if it is off.

    Raises:
        TbtError: the limit in the environment is no number.
    """
    named, limit = os.environ.get(FOLDER, ""), os.environ.get(LIMIT) or str(_DEFAULT_MIB)
    if named.lower() == OFF:
        return None
    if not (limit.isascii() and limit.isdigit()):
        raise TbtError(f"the environment variable {LIMIT} is {limit!r}: expected a whole number of MiB")
    return ContentCache(Path(named).expanduser().absolute() if named else _default(), int(limit) * 2**20)


def _digest(key: str, content: bytes) -> bytes:
    """What a file begins with; it tells too under which name the file was written."""
    return hashlib.sha256(key.encode() + content).digest()


def key_of(*parts: str) -> str:
    """The key of a result: the SHA-256 of all that it depends on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part.encode()))
        digest.update(part.encode())
    return digest.hexdigest()


def _default() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path(os.path.expanduser("~/.cache"))) / "tbt_compile"
