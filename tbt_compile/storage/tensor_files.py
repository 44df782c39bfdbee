"""Files of tensors: a portable format for frozen models, a memory-mapped one for compiled models.

The portable format is safetensors, which transformers reads as well. In the memory-mapped format every tensor
begins at a multiple of 64 bytes: kernels read packed weights in place, without a copy, and all processes that
run a model share its pages.

There float tensors are compressed losslessly: their bytes are transposed (HDF5's shuffle filter) and
deflated. Exponents of adjacent weights are alike, which saves about a sixth. Packed words do not compress.
"""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import FormatError
from tbt_compile.storage.aligned import ALIGNMENT, aligned_copy

SHUFFLED = "shuffle-deflate"
_MAGIC = b"tensors of a model compiled by tbt-compile\n".ljust(ALIGNMENT, b"\0")

_KINDS = "biuf"  # of dtypes: no objects, whose bytes would be taken for addresses
_FAULTS = (KeyError, OverflowError, TypeError, ValueError, zlib.error)

Array = npt.NDArray[Any]
Described = dict[str, dict[str, Any]]
"""What the manifest records of each tensor, by name; writers return it and readers take it."""


def write_portable(file: Path, tensors: Mapping[str, Array]) -> Described:
    """Write tensors to a safetensors file."""
    from safetensors.numpy import save_file

    # A copy: save_file writes the memory of an array, whatever its strides.
    save_file({name: np.array(tensor, order="C") for name, tensor in tensors.items()}, file, {"format": "pt"})
    return {name: _described(tensor) for name, tensor in tensors.items()}


def read_portable(file: Path, described: Described) -> dict[str, Array]:
    """Read the tensors of a safetensors file; those of older folders may be compressed.

    Raises:
        FormatError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as stored:
            return {name: _as_described(stored.get_tensor(name), entry) for name, entry in described.items()}
    except (*_FAULTS, SafetensorError) as error:
        raise _damaged(file, error) from error


def write_mapped(file: Path, tensors: Mapping[str, Array]) -> Described:
    """Write tensors consecutively, each at a multiple of `ALIGNMENT` bytes."""
    described = {}
    with file.open("wb") as stream:
        stream.write(_MAGIC)
        for name, tensor in tensors.items():
            stored = encode(tensor).reshape(-1).view(np.uint8)
            described[name] = {**describe(tensor), "offset": stream.tell(), "bytes": stored.nbytes}
            stream.write(stored.data)
            stream.write(bytes(-stored.nbytes % ALIGNMENT))
    return described


def read_mapped(file: Path, described: Described) -> dict[str, Array]:
    """Read a file that `write_mapped` wrote; floats are decoded, other tensors memory-mapped.

    All tensors are aligned. Pages are read on first access, and stay valid when the file is moved or deleted.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        mapped = map_file(file)
        return {name: _mapped_tensor(mapped, entry) for name, entry in described.items()}
    except _FAULTS as error:
        raise _damaged(file, error) from error


def map_file(file: Path) -> mmap.mmap:
    """Map a file into memory; processes that map the same file share its pages.

    The mapping is copy-on-write: NumPy exports only writable memory to TVM, and writes must not reach the
    file.
    """
    with file.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


def describe(tensor: Array) -> dict[str, Any]:
    """Return what the manifest records of an encoded tensor: dtype, shape and, for floats, the coding."""
    coding = {"coding": SHUFFLED} if tensor.dtype.kind == "f" else {}
    return {**_described(tensor), **coding}


def _described(tensor: Array) -> dict[str, Any]:
    return {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}


def encode(tensor: Array) -> Array:
    """Return the stored form of a tensor, contiguous: floats as deflated bytes, others unchanged."""
    if tensor.dtype.kind != "f":
        return np.asarray(tensor, order="C")
    raw = np.asarray(tensor, order="C").reshape(-1).view(np.uint8).reshape(-1, tensor.itemsize)
    return np.frombuffer(zlib.compress(raw.T.tobytes(), 6), np.uint8)


def decode(stored: Array, entry: Mapping[str, Any]) -> Array:
    """Decode what `encode` returned, given the tensor's `describe` entry; decoded floats are aligned."""
    if entry.get("coding") != SHUFFLED:
        return stored
    dtype = np.dtype(entry["dtype"])
    raw = _inflated(stored, math.prod(entry["shape"]) * dtype.itemsize)
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return aligned_copy(planes.T).reshape(-1).view(dtype).reshape(entry["shape"])


def _inflated(stored: Array, size: int) -> bytes:
    """Inflate to so many bytes; more are not made, whatever is stored.

    Raises:
        ValueError: it holds more, or fewer.
    """
    inflating = zlib.decompressobj()
    raw = inflating.decompress(stored.data, size + 1)
    if len(raw) != size or not inflating.eof:
        raise ValueError(f"a tensor does not inflate to its {size} bytes")
    return raw


def _as_described(stored: Array, entry: Mapping[str, Any]) -> Array:
    """Decode a tensor and compare it with its entry."""
    tensor = decode(stored, entry)
    if _described(tensor) != {name: entry[name] for name in ("dtype", "shape")}:
        raise ValueError(f"a tensor is {_described(tensor)}: expected {dict(entry)}")
    return tensor


def _mapped_tensor(mapped: mmap.mmap, entry: Mapping[str, Any]) -> Array:
    dtype = np.dtype(entry["dtype"])
    if dtype.kind not in _KINDS or entry["offset"] % ALIGNMENT:
        raise ValueError(f"a tensor of {dtype} at byte {entry['offset']}")
    stored = np.frombuffer(mapped, np.uint8, entry["bytes"], entry["offset"])
    if "coding" in entry:
        return decode(stored, entry)
    return stored.view(dtype).reshape(entry["shape"])


def _damaged(file: Path, error: Exception) -> FormatError:
    return FormatError(f"{file} is damaged ({error}): save the model again")
