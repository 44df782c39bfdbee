"""Model folders: `manifest.json`, a file of tensors (see `tensor_files`), and further files.

The manifest holds the format version, the size and checksum of every file, and a checksum of the manifest
itself. Truncated or altered folders are refused before anything is built from them. Writing is atomic (see
`folder_draft`) and replaces nothing but model folders with no other file in them. Needs neither torch nor
TVM. `docs/formats.md` specifies both formats.

Every load checks all files by SHA-256, but for the tensors of a compiled folder: by CRC-32, which is fast on
CPUs without instructions for SHA too. A folder that has to be signed is checked by SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from tbt_compile import __version__
from tbt_compile.errors import FormatError
from tbt_compile.storage import folder_draft, signatures, tensor_files
from tbt_compile.storage.checksums import ALL, Checks, altered, check_file, fingerprint
from tbt_compile.storage.consistent_read import read_consistently
from tbt_compile.storage.field_types import misfit
from tbt_compile.storage.manifest_fields import FOLDER, file_names
from tbt_compile.storage.os_errors import reading
from tbt_compile.storage.ownership import Layout, no_model, require_nothing_else

FORMAT = "tbt-compile"
MANIFEST = "manifest.json"
CARD = "README.md"
"""The model card, for people: a changed one does not keep a folder from loading, unless a key is given."""
# Kinds of folders: a frozen model, a compiled text generator, any other compiled module.
FROZEN, GENERATOR, MODULE = "frozen", "compiled", "compiled-module"
CHECKSUM = "checksum"

Array = npt.NDArray[Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Kind:
    """The format of one kind of folder.

    Attributes:
        version: of the format that is written.
        oldest: the oldest version that is read.
        tensors: name of the file of tensors.
        quick: whether that file is checked by CRC-32.
        renew: how the user gets a folder of this version, for error messages.
        write: writes the file of tensors; returns what the manifest records about them.
        read: the inverse of `write`.
    """

    version: int
    oldest: int
    tensors: str
    quick: bool
    renew: str
    write: Callable[[Path, Mapping[str, Array]], tensor_files.Described]
    read: Callable[[Path, tensor_files.Described], dict[str, Array]]


_FROZEN = Kind(
    version=1,
    oldest=1,
    tensors="tensors.safetensors",
    quick=False,
    renew="save the model again",
    write=tensor_files.write_portable,
    read=tensor_files.read_portable,
)
_COMPILED = Kind(
    version=8,
    oldest=8,
    tensors="tensors.bin",
    quick=True,
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
        names = {file.relative_to(work).as_posix(): file for file in listed}
        checks = {
            name: fingerprint(file, form.quick and name == form.tensors) for name, file in names.items()
        }
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
        (work / MANIFEST).write_bytes(_serialized(record))
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


def read_manifest(path: str | Path, kind: str | None = None, checks: Checks = ALL) -> dict[str, Any]:
    """Read the manifest of a model folder and check every file that it lists.

    Args:
        path: the folder.
        kind: that it has to have; None for any.
        checks: what is compared.

    Raises:
        FormatError: the folder or a file is missing, truncated or altered, has another kind or version, or is
            not signed as it has to be.
    """
    path = Path(path)
    content, manifest = _parse(path)
    found = manifest.get("kind")
    if kind is not None and found != kind:
        raise FormatError(f"{path} holds a {found} model: expected a {kind} one")
    if not isinstance(found, str) or found not in KINDS:
        raise FormatError(f"{path} holds a {found} model: expected one that is {' or '.join(KINDS)}")
    _check_version(path, manifest.get("version"), found)
    if checks.public_key is not None:
        signatures.check_signature(path, content, checks.public_key)
    if not _is_unaltered(content, manifest):
        raise altered(path / MANIFEST)
    require_fields(path, manifest, FOLDER)
    if KINDS[found].tensors not in manifest["files"]:
        raise damaged(path, f"files has no {KINDS[found].tensors}")
    for name, expected in manifest["files"].items():
        if name != CARD or checks.public_key is not None:
            check_file(path / name, expected, checks)
    if checks.public_key is not None:
        require_nothing_else(path, _LAYOUT)
    return manifest


def require_fields(path: str | Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a manifest has fields of the right types.

    Args:
        path: the folder.
        manifest: of it.
        wanted: see `manifest_fields`.

    Raises:
        FormatError: one is missing or has another type; names it.
    """
    try:
        wrong = misfit(manifest, wanted)
    except RecursionError:
        wrong = "its lists and objects are nested too deeply"
    if wrong is not None:
        raise damaged(path, wrong)


def damaged(path: str | Path, wrong: str) -> FormatError:
    """The error that a manifest whose checksum is right says something wrong."""
    return FormatError(f"{Path(path) / MANIFEST} is damaged: {wrong}; save the model again")


def _check_version(path: Path, found: Any, kind: str) -> None:
    form = KINDS[kind]
    if isinstance(found, int) and form.oldest <= found <= form.version:
        return
    span = f"version {form.version}"
    if form.oldest < form.version:
        span = f"versions {form.oldest} to {form.version}"
    raise FormatError(
        f"{path} has format version {found}, and this release reads {span} of {kind} models: {form.renew} "
        "with this release, or install the one that wrote it"
    )


def peek_kind(path: str | Path) -> str:
    """Return the kind of a model folder; reads nothing but the manifest.

    Raises:
        FormatError: there is no manifest, or another program wrote it.
    """
    return read_whole(path, lambda: str(_parse(Path(path))[1].get("kind")))


def sign(path: str | Path, private_key: str | Path) -> Path:
    """Sign a model folder, so that `load` with the public key takes it and no other.

    Args:
        path: the folder.
        private_key: a file, see `signatures.make_keys`.

    Returns:
        The file of the signature.

    Raises:
        FormatError: the folder is damaged, or holds files that do not belong to it; the key cannot be read.
        WriteError: the system refuses.
    """
    read_manifest(path)
    require_nothing_else(Path(path), _LAYOUT)
    return signatures.sign(Path(path) / MANIFEST, Path(private_key))


def _parse(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of a manifest, and its fields."""
    file = path / MANIFEST
    with reading(file):
        if not file.is_file():
            raise no_model(path, MANIFEST)
        content = file.read_bytes()
    try:
        manifest = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} is damaged ({error}): save the model again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FormatError(f"{file} was not written by tbt-compile")
    return content, manifest


def _listed(path: Path) -> frozenset[str] | None:
    """Names of the files of a folder if its manifest is one that we wrote, unaltered; see `Layout`."""
    try:
        content, manifest = _parse(path)
    except FormatError:
        return None
    if not _is_unaltered(content, manifest) or misfit(manifest, {"files": file_names}):
        return None
    card, recorded = path / CARD, manifest["files"].get(CARD)
    rewritten = recorded is not None and card.is_file() and fingerprint(card) != recorded
    return frozenset({*manifest["files"], MANIFEST, signatures.SIGNATURE} - ({CARD} if rewritten else set()))


_LAYOUT = Layout(MANIFEST, _listed)


def read_tensors(path: str | Path, manifest: Mapping[str, Any]) -> dict[str, Array]:
    """Read the tensors of a model folder by name; packed weights of compiled models are memory-mapped."""
    form = KINDS[manifest["kind"]]
    with reading(path):
        return form.read(Path(path) / form.tensors, manifest["tensors"])


def folder_bytes(path: str | Path) -> int:
    """Return the total size of the files in a folder, in bytes."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def _serialized(manifest: Mapping[str, Any]) -> bytes:
    """The one way in which a manifest is written: two that differ in a byte are two manifests."""
    return json.dumps(manifest, separators=(",", ":")).encode()


def _is_unaltered(content: bytes, manifest: Mapping[str, Any]) -> bool:
    try:
        return content == _serialized(manifest) and manifest.get(CHECKSUM) == _manifest_checksum(manifest)
    except RecursionError:  # nothing of ours is nested so deeply
        return False


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's canonical JSON without the checksum itself."""
    rest = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(_serialized(rest)).hexdigest()
