"""Model folders: `manifest.json`, tensors in safetensors, and whatever else belongs to the model.

The manifest carries the format version, the size and SHA-256 of every file and a checksum of itself, so
that a truncated or altered folder is refused before anything is built from it. A folder appears complete
or not at all: it is written under a temporary name and then renamed. Needs neither torch nor TVM.

Float tensors are stored without loss as the deflated transposition of their bytes (as HDF5's shuffle
filter does): exponents of neighbouring weights are alike, which saves about a sixth. Packed words are
stored as they are, since they have nothing left to compress and can be mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tbt_compile import __version__
from tbt_compile.errors import FormatError

FORMAT = "tbt-compile"
VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
# Kinds of folders: packed, compiled to generate text, compiled to be called.
FROZEN, GENERATOR, MODULE = "frozen", "compiled", "compiled-module"
CHECKSUM = "checksum"
SHUFFLED = "shuffle-deflate"

Array = npt.NDArray[Any]


def write_folder(
    path: str | Path,
    kind: str,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Array],
    files: Mapping[str, Path] | None = None,
) -> Path:
    """Write a model folder at `path`, replacing a folder that this function wrote before.

    Args:
        kind: `FROZEN`, `GENERATOR` or `MODULE`; `read_manifest` checks it.
        manifest: what to record beside format, versions, tensors and checksums.
        tensors: by name.
        files: further files to copy, by the name they get in the folder.

    Raises:
        FormatError: something else than a model folder is in the way.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file() and (path.is_file() or any(path.iterdir())):
        raise FormatError(f"{path} exists and is not a model folder: remove it or choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        work.chmod(0o755)
        described = _write_tensors(work / TENSORS, tensors)
        for name, source in (files or {}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, work / name)
        listed = sorted(file for file in work.rglob("*") if file.is_file())
        for file in listed:
            file.chmod(0o644)  # some writers leave files that only their owner can read
        checks = {str(file.relative_to(work)): _fingerprint(file) for file in listed}
        record = {
            "format": FORMAT,
            "version": VERSION,
            "kind": kind,
            "tbt_compile": __version__,
            **manifest,
            "tensors": described,
            "files": checks,
        }
        record[CHECKSUM] = _manifest_checksum(record)
        (work / MANIFEST).write_text(json.dumps(record, separators=(",", ":")), encoding="utf-8")
        _replace(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def read_manifest(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of a model folder, after checking every file it lists.

    Raises:
        FormatError: the folder or a file is missing, truncated or altered, or is of another kind or version.
    """
    path = Path(path)
    manifest = _parse(path)
    if manifest.get("version") != VERSION:
        raise FormatError(
            f"{path} has format version {manifest.get('version')}, and this release reads version {VERSION}: "
            "save the model again with this release, or install the one that wrote it"
        )
    if kind is not None and manifest.get("kind") != kind:
        raise FormatError(f"{path} holds a {manifest.get('kind')} model: expected a {kind} one")
    if manifest.get(CHECKSUM) != _manifest_checksum(manifest):
        raise _altered(path / MANIFEST)
    for name, expected in manifest["files"].items():
        _check_file(path / name, expected)
    return manifest


def peek_kind(path: str | Path) -> str:
    """The kind of a model folder; only the manifest is read.

    Raises:
        FormatError: there is no manifest, or it is not one of this package.
    """
    return str(_parse(Path(path)).get("kind"))


def _parse(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise FormatError(f"{path} is not a model folder: it has no {MANIFEST}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{file} is damaged ({error}): save the model again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FormatError(f"{file} was not written by tbt-compile")
    return manifest


def read_tensors(path: str | Path, manifest: Mapping[str, Any]) -> dict[str, Array]:
    """Every tensor of a model folder by name, decoded."""
    described = manifest["tensors"]
    try:
        with safe_open(Path(path) / TENSORS, framework="np") as stored:
            return {name: decode(stored.get_tensor(name), entry) for name, entry in described.items()}
    except (SafetensorError, zlib.error, KeyError) as error:
        raise FormatError(f"{Path(path) / TENSORS} is damaged ({error}): save the model again") from error


def folder_bytes(path: str | Path) -> int:
    """Size of everything in a folder."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def _write_tensors(file: Path, tensors: Mapping[str, Array]) -> dict[str, Any]:
    described, stored = {}, {}
    for name, tensor in tensors.items():
        described[name], stored[name] = describe(tensor), encode(tensor)
    save_file(stored, file)
    return described


def describe(tensor: Array) -> dict[str, Any]:
    """What the manifest says of a tensor: its dtype and shape, and the coding if it has one."""
    coding = {"coding": SHUFFLED} if tensor.dtype.kind == "f" else {}
    return {"dtype": tensor.dtype.name, "shape": list(tensor.shape), **coding}


def encode(tensor: Array) -> Array:
    """The stored form of a tensor: a float one as deflated bytes, any other one as it is."""
    if tensor.dtype.kind != "f":
        return np.array(tensor, order="C")
    raw = np.array(tensor, order="C").reshape(-1).view(np.uint8).reshape(-1, tensor.itemsize)
    return np.frombuffer(zlib.compress(np.ascontiguousarray(raw.T).tobytes(), 6), np.uint8)


def decode(stored: Array, entry: Mapping[str, Any]) -> Array:
    """The inverse of `encode`, for what `describe` said of the tensor."""
    if entry.get("coding") != SHUFFLED:
        return stored
    dtype = np.dtype(entry["dtype"])
    planes = np.frombuffer(zlib.decompress(stored.tobytes()), np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(entry["shape"])


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": _sha256(stream)}


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's canonical text, its own checksum left out."""
    rest = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, separators=(",", ":")).encode()).hexdigest()


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _check_file(file: Path, expected: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise FormatError(f"{file} is missing: copy the whole folder again")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise FormatError(
            f"{file} has {size} bytes instead of {expected['bytes']}: it is truncated, copy the folder again"
        )
    if _fingerprint(file)["sha256"] != expected["sha256"]:
        raise _altered(file)


def _altered(file: Path) -> FormatError:
    return FormatError(f"{file} was altered: its checksum is not the recorded one, copy the folder again")


def _replace(work: Path, path: Path) -> None:
    """Rename `work` to `path`; what was there before is removed only after the new folder is in place."""
    if not path.exists():
        os.replace(work, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    os.replace(path, old)
    try:
        os.replace(work, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
