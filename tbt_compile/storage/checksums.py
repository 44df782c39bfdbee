"""Checksums of the files of a model folder, and how much of a folder is checked when it is loaded."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tbt_compile.errors import FormatError
from tbt_compile.storage.os_errors import reading

SHA256, CRC32, BYTES = "sha256", "crc32", "bytes"


@dataclass(frozen=True)
class Checks:
    """What of a folder is checked before it is used; sizes and the manifest always are.

    Attributes:
        contents: every file, by the checksums in the manifest.
        public_key: a file with the key by which the folder has to be signed. Every file is then checked by
            SHA-256, and no further file may be in the folder.

    Raises:
        FormatError: there is a key, and contents are not to be checked.
    """

    contents: bool = True
    public_key: Path | None = None

    def __post_init__(self) -> None:
        if self.public_key is not None and not self.contents:
            raise FormatError(
                f"check=False with the public key {self.public_key}: a signature says nothing of files that "
                "are not read; leave one of them out"
            )

    @classmethod
    def of(cls, check: bool = True, public_key: str | Path | None = None) -> Checks:
        """The checks that the arguments of `load` ask for."""
        return cls(check, None if public_key is None else Path(public_key))


ALL = Checks()


def fingerprint(file: Path, quick: bool = False) -> dict[str, Any]:
    """Return what a manifest records of a file: size and SHA-256, and where `quick` a CRC-32 too."""
    found = {BYTES: file.stat().st_size, SHA256: sha256(file)}
    return {**found, CRC32: _crc32(file)} if quick else found


def check_file(file: Path, expected: Mapping[str, Any], checks: Checks = ALL) -> None:
    """Compare a file with its fingerprint; a CRC-32 is preferred, unless the folder has to be signed.

    Args:
        file: the file.
        expected: what `fingerprint` returned.
        checks: how much is compared.

    Raises:
        FormatError: the file is missing, truncated or altered.
    """
    with reading(file):
        if not file.is_file():
            raise FormatError(f"{file} is missing: copy the whole folder again")
        size = file.stat().st_size
        if size != expected[BYTES]:
            raise FormatError(
                f"{file} has {size} bytes instead of {expected[BYTES]}: it is truncated, copy the folder "
                "again"
            )
        if not checks.contents:
            return
        quick = CRC32 in expected and checks.public_key is None
        if (_crc32(file) != expected[CRC32]) if quick else (sha256(file) != expected[SHA256]):
            raise altered(file)


def altered(file: Path) -> FormatError:
    """The error that a file is not what the manifest says."""
    return FormatError(
        f"{file} was altered: its checksum differs from the recorded one, copy the folder again"
    )


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in _blocks(stream):
            digest.update(block)
    return digest.hexdigest()


def _crc32(file: Path) -> str:
    value = 0
    with file.open("rb") as stream:
        for block in _blocks(stream):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def _blocks(stream: BinaryIO) -> Any:
    return iter(lambda: stream.read(1 << 20), b"")
