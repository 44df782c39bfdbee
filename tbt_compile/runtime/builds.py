"""The builds of a compiled model: one library for each CPU that it was compiled for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.errors import FormatError
from tbt_compile.storage import manifest_fields, model_folder
from tbt_compile.storage.checksums import Checks, altered, sha256
from tbt_compile.storage.os_errors import reading
from tbt_compile.storage.tensor_files import map_file

if TYPE_CHECKING:
    from mmap import mmap

_STEM = "model"
_FILE = "library"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Build:
    """A library for one CPU.

    Attributes:
        facts: the part of the manifest that depends on the CPU: target, features, kernels, functions with
            the names of their tensors, and so on.
        library: the library in memory, or the path of its file.
        linked: the memory-mapped file; None for a library in memory.
        digest: the SHA-256 that the file has to have; None for a library in memory, or if it is not checked.
    """

    facts: dict[str, Any]
    library: Any
    linked: mmap | None = None
    digest: str | None = None

    @classmethod
    def read(cls, folder: Path, recorded: Mapping[str, Any], digest: str | None) -> Build:
        """Read a build of a folder.

        Args:
            folder: of the model.
            recorded: the entry of the manifest's "builds".
            digest: the SHA-256 of the library; None not to check it.

        Raises:
            FormatError: the library is an empty file.
        """
        path = folder / recorded[_FILE]
        facts = {name: value for name, value in recorded.items() if name != _FILE}
        if not path.stat().st_size:  # which cannot be mapped
            raise FormatError(f"{path} is empty: lower the model again")
        return cls(facts, path, map_file(path), digest)

    def checked_library(self) -> Any:
        """The library, to be loaded now: its code runs as soon as it is.

        A model that was read may be bound much later, when its folder holds another file.

        Raises:
            FormatError: the file is not the one that the manifest names.
        """
        if self.digest is not None:
            with reading(self.library):
                if sha256(self.library) != self.digest:
                    raise altered(self.library)
        return self.library

    @property
    def target(self) -> TargetSpec:
        """The target that it was compiled for."""
        return TargetSpec.recorded(self.facts["target"], self.facts["features"])

    @property
    def tensor_names(self) -> frozenset[str]:
        """Names of the stored tensors that its functions read."""
        return frozenset(name for names in self.facts["functions"].values() for name in names)

    def save(self, file: Path) -> dict[str, Any]:
        """Write the library to a file; returns this build's entry of the manifest."""
        if self.linked is not None:
            file.write_bytes(self.linked)
        else:
            self.library.export(file)
        return {_FILE: file.name, **self.facts}


def read_compiled(path: Path, kind: str, checks: Checks) -> dict[str, Any]:
    """Read and check the manifest of a compiled folder, with all its fields.

    Args:
        path: the folder.
        kind: `model_folder.GENERATOR` or `MODULE`.
        checks: what of the files is compared.

    Raises:
        FormatError: as for `model_folder.read_manifest`; or a field is missing or has another type, or names
            what the folder does not have.
    """
    manifest = model_folder.read_manifest(path, kind, checks)
    fields = {model_folder.GENERATOR: manifest_fields.GENERATOR, model_folder.MODULE: manifest_fields.MODULE}
    model_folder.require_fields(path, manifest, fields[kind])
    wrong = manifest_fields.wrong_build(manifest)
    if wrong is not None:
        raise model_folder.damaged(path, wrong)
    return manifest


def file_names(builds: Sequence[Build]) -> list[str]:
    """Return the file name of every build: `model.so`, or for several CPUs `model-cortex-a72.so` etc.

    The suffix is that of the system: `model.dylib` on macOS, `model.dll` on Windows.
    """
    targets = [build.target for build in builds]
    if len(targets) == 1:
        return [library_name(targets[0])]
    return [f"{_STEM}-{target.mcpu}{target.system.suffix}" for target in targets]


def library_name(target: TargetSpec) -> str:
    """Return the file name of the library of a model that was compiled for one CPU."""
    return f"{_STEM}{target.system.suffix}"


def add_tensors(stored: dict[str, Array], own: Mapping[str, Array]) -> dict[str, str]:
    """Add the tensors of another build to `stored`, in place, without storing equal tensors twice.

    CPUs with the same kernels read weights in the same layout. Where layouts differ, so do the contents, and
    the tensor gets another name.

    Returns:
        The name under which each tensor of `own` is stored.
    """
    names = {}
    for name, tensor in own.items():
        place, number = name, 1
        while place in stored and not _same(stored[place], tensor):
            number += 1
            place = f"{name}@{number}"
        stored.setdefault(place, tensor)
        names[name] = place
    return names


def shared_bytes(builds: Iterable[Build], tensors: Mapping[str, Array]) -> int:
    """Return the bytes in memory of the tensors that all builds read."""
    common = frozenset.intersection(*(build.tensor_names for build in builds))
    return sum(tensors[name].nbytes for name in common)


def _same(one: Array, other: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return np.array_equal(_bytes(one), _bytes(other))


def _bytes(array: Array) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
