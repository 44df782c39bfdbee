"""The libraries of a compiled model, one for each CPU that it was compiled for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.storage.tensor_files import map_file

if TYPE_CHECKING:
    from mmap import mmap

LIBRARY = "model.so"
"""File of the library of a model that was compiled for one CPU."""
_FILE = "library"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Build:
    """A library for one CPU.

    Attributes:
        facts: what the manifest says of this CPU alone: target, features, kernels, functions with the names
            of their tensors, and so on.
        library: the library in memory, or the path of its file.
        linked: the bytes of the file, mapped; None for a library in memory.
    """

    facts: dict[str, Any]
    library: Any
    linked: mmap | None = None

    @classmethod
    def read(cls, folder: Path, recorded: Mapping[str, Any]) -> Build:
        """A library of a folder, for one of the manifest's "builds"."""
        path = folder / recorded[_FILE]
        facts = {name: value for name, value in recorded.items() if name != _FILE}
        return cls(facts, path, map_file(path))

    @property
    def target(self) -> TargetSpec:
        """What it was compiled for."""
        return TargetSpec.recorded(self.facts["target"], self.facts["features"])

    @property
    def tensor_names(self) -> frozenset[str]:
        """The stored tensors that it reads."""
        return frozenset(name for names in self.facts["functions"].values() for name in names)

    def save(self, file: Path) -> dict[str, Any]:
        """Write the library; returns what the manifest has to say of this build."""
        if self.linked is not None:
            file.write_bytes(self.linked)
        else:
            from tbt_compile.codegen.library.link import export_library

            export_library(self.library, file, self.target)
        return {_FILE: file.name, **self.facts}


def file_names(builds: Sequence[Build]) -> list[str]:
    """The file of every library: `model.so`, or with several CPUs `model-cortex-a72.so` and so on."""
    if len(builds) == 1:
        return [LIBRARY]
    stem, suffix = LIBRARY.split(".")
    return [f"{stem}-{build.target.mcpu}.{suffix}" for build in builds]


def add_tensors(stored: dict[str, Array], own: Mapping[str, Array]) -> dict[str, str]:
    """Put the tensors of one more build with the others; one that is there already is not stored again.

    CPUs with the same kernels read weights in the same layout. Where layouts differ, so do the contents,
    and the second gets another name.

    Returns:
        For each of `own` the name that it is stored under.
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
    """Bytes, in memory, of the tensors that all builds read."""
    common = frozenset.intersection(*(build.tensor_names for build in builds))
    return sum(tensors[name].nbytes for name in common)


def _same(one: Array, other: Array) -> bool:
    """Equality of dtype, shape and bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return np.array_equal(_bytes(one), _bytes(other))


def _bytes(array: Array) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
