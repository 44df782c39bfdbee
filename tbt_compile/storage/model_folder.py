"""Model folders: `manifest.json`, a file of tensors (see `tensor_files`), and further files.

The manifest holds the format version, the size and checksum of every file, and a checksum of the manifest
itself. Truncated or altered folders are refused before anything is built from them. Writing is atomic (see
`folder_draft`) and replaces nothing but model folders with no other file in them. Needs neither torch nor
TVM.

Every load checks all files: compiled folders by CRC-32, at about 2 GB/s, frozen ones by SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy.typing as npt

from tbt_compile import __version__
from tbt_compile.errors import FormatError
from tbt_compile.storage import folder_draft, tensor_files
from tbt_compile.storage.consistent_read import read_consistently
from tbt_compile.storage.os_errors import reading
from tbt_compile.storage.ownership import Layout

FORMAT = "tbt-compile"
MANIFEST = "manifest.json"
# Kinds of folders: a frozen model, a compiled text generator, any other compiled module.
FROZEN, GENERATOR, MODULE = "frozen", "compiled", "compiled-module"
CHECKSUM = "checksum"

Array = npt.NDArray[Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Kind:
    """The format of one kind of folder.

    Attributes:
        version: of the format.
        tensors: name of the file of tensors.
        digest: "crc32" or "sha256", the checksum of every file.
        renew: how the user gets a folder of this version, for error messages.
        write: writes the file of tensors; returns what the manifest records about them.
        read: the inverse of `write`.
    """

    version: int
    tensors: str
    digest: str
    renew: str
    write: Callable[[Path, Mapping[str, Array]], tensor_files.Described]
    read: Callable[[Path, tensor_files.Described], dict[str, Array]]


_FROZEN = Kind(
    version=1,
    tensors="tensors.safetensors",
    digest="sha256",
    renew="save the model again",
    write=tensor_files.write_portable,
    read=tensor_files.read_portable,
)
_COMPILED = Kind(
    version=7,
    tensors="tensors.bin",
    digest="crc32",
    renew="lower the model again",
    write=tensor_files.write_mapped,
    read=tensor_files.read_mapped,
)
KINDS = {FROZEN: _FROZEN, GENERATOR: _COMPILED, MODULE: _COMPILED}


def write_folder(
    path: str | Path,
    kind: str,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Array],
    files: Mapping[str, Path] | None = None,
) -> Path:
    """Write a model folder atomically; replaces an older model folder at the same path.

    Of several writers the last one wins, and a reader always finds a complete folder.

    Args:
        path: the folder.
        kind: `FROZEN`, `GENERATOR` or `MODULE`, a key of `KINDS`; `read_manifest` checks it.
        manifest: JSON-ready values to record besides format, versions, tensors and checksums.
        tensors: arrays by name.
        files: further files to copy, by their names in the folder.

    Returns:
        The folder.

    Raises:
        FormatError: `path` exists and is not a model folder, or holds files that do not belong to it.
        WriteError: the system refuses: no space, no permission, a bad path.
    """
    form = KINDS[kind]
    with folder_draft.folder_draft(path, _LAYOUT) as work:
        described = form.write(work / form.tensors, tensors)
        for name, source in (files or {}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, work / name)
        listed = sorted(file for file in work.rglob("*") if file.is_file())
        for file in listed:
            file.chmod(0o644)  # some writers make files that only their owner can read
        checks = {file.relative_to(work).as_posix(): _fingerprint(file, form.digest) for file in listed}
        record = {
            "format": FORMAT,
            "version": form.version,
            "kind": kind,
            "tbt_compile": __version__,
            **manifest,
            "tensors": described,
            "files": checks,
        }
        record[CHECKSUM] = _manifest_checksum(record)
        (work / MANIFEST).write_text(json.dumps(record, separators=(",", ":")), encoding="utf-8")
    return Path(path)


def require_replaceable(path: str | Path) -> None:
    """Check, before work is done for it, that a model folder may be written at `path`.

    Raises:
        FormatError: `path` exists and is not a model folder, or holds files that do not belong to it.
        WriteError: it may not be read or changed.
    """
    folder_draft.require_replaceable(path, _LAYOUT)


def read_whole(path: str | Path, read: Callable[[], Result]) -> Result:
    """Read several files of a model folder that may be replaced meanwhile; see `read_consistently`."""
    return read_consistently(Path(path), MANIFEST, read)


def read_manifest(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Read the manifest of a model folder and check every file that it lists.

    Raises:
        FormatError: the folder or a file is missing, truncated or altered, or has another kind or version.
    """
    path = Path(path)
    manifest = _parse(path)
    found = manifest.get("kind")
    if kind is not None and found != kind:
        raise FormatError(f"{path} holds a {found} model: expected a {kind} one")
    if found not in KINDS:
        raise FormatError(f"{path} holds a {found} model: expected one that is {' or '.join(KINDS)}")
    form = KINDS[found]
    if manifest.get("version") != form.version:
        raise FormatError(
            f"{path} has format version {manifest.get('version')}, and this release reads version "
            f"{form.version} of {found} models: {form.renew} with this release, or install the one that "
            "wrote it"
        )
    if manifest.get(CHECKSUM) != _manifest_checksum(manifest):
        raise _altered(path / MANIFEST)
    for name, expected in manifest["files"].items():
        _check_file(path / name, expected, form.digest)
    return manifest


def peek_kind(path: str | Path) -> str:
    """Return the kind of a model folder; reads nothing but the manifest.

    Raises:
        FormatError: there is no manifest, or another program wrote it.
    """
    return read_whole(path, lambda: str(_parse(Path(path)).get("kind")))


def _parse(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    with reading(file):
        if not file.is_file():
            raise FormatError(f"{path} is not a model folder: it has no {MANIFEST}")
        content = file.read_bytes()
    try:
        manifest = json.loads(content.decode())
    except ValueError as error:
        raise FormatError(f"{file} is damaged ({error}): save the model again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FormatError(f"{file} was not written by tbt-compile")
    return manifest


def _listed(path: Path) -> frozenset[str] | None:
    """Names of the files of a folder if its manifest is one that we wrote, unaltered; see `Layout`."""
    try:
        manifest = _parse(path)
    except FormatError:
        return None
    if manifest.get(CHECKSUM) != _manifest_checksum(manifest):
        return None
    return frozenset({*manifest["files"], MANIFEST})


_LAYOUT = Layout(MANIFEST, _listed)


def read_tensors(path: str | Path, manifest: Mapping[str, Any]) -> dict[str, Array]:
    """Read the tensors of a model folder by name; packed weights of compiled models are memory-mapped."""
    form = KINDS[manifest["kind"]]
    with reading(path):
        return form.read(Path(path) / form.tensors, manifest["tensors"])


def folder_bytes(path: str | Path) -> int:
    """Return the total size of the files in a folder, in bytes."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def _fingerprint(file: Path, digest: str) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, digest: _DIGESTS[digest](stream)}


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's canonical JSON without the checksum itself."""
    rest = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, separators=(",", ":")).encode()).hexdigest()


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _crc32(stream: BinaryIO) -> str:
    value = 0
    while block := stream.read(1 << 20):
        value = zlib.crc32(block, value)
    return f"{value:08x}"


_DIGESTS = {"sha256": _sha256, "crc32": _crc32}


def _check_file(file: Path, expected: Mapping[str, Any], digest: str) -> None:
    with reading(file):
        if not file.is_file():
            raise FormatError(f"{file} is missing: copy the whole folder again")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise FormatError(
                f"{file} has {size} bytes instead of {expected['bytes']}: it is truncated, copy the folder "
                "again"
            )
        if _fingerprint(file, digest) != expected:
            raise _altered(file)


def _altered(file: Path) -> FormatError:
    return FormatError(
        f"{file} was altered: its checksum differs from the recorded one, copy the folder again"
    )
