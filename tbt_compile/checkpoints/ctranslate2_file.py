"""The `model.bin` of CTranslate2: named tensors, one after the other.

All numbers are little-endian; a string is its length in 16 bits, zero byte included, and its bytes:

    uint32 version, string specification, uint32 revision
    uint32 tensors, then each: string name, uint8 rank, uint32 per size, uint8 dtype, uint32 bytes, the values
    uint32 aliases, then each: string alias, string name
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import FormatError

_VERSION = 6
_DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2")
"""By CTranslate2's numbers; what follows is bfloat16, which NumPy does not have."""
Array = npt.NDArray[Any]


def read_model(path: Path) -> tuple[str, dict[str, Array]]:
    """Read a file.

    Args:
        path: of `model.bin`.

    Returns:
        The name of the specification, such as "WhisperSpec", and the tensors by name, aliases included. They
        are views of the file's bytes in memory.

    Raises:
        FormatError: it cannot be read, ends too early, has bytes left over, or a version or dtype that is not
            known.
    """
    try:
        reader = _Reader(path.read_bytes())
        version = reader.number("I")
        if version != _VERSION:
            raise ValueError(f"it has version {version}")
        specification, _revision = reader.text(), reader.number("I")
        tensors = dict(reader.tensor() for _ in range(reader.number("I")))
        for _ in range(reader.number("I")):
            alias, name = reader.text(), reader.text()
            tensors[alias] = tensors[name]
        if reader.place != len(reader.data):
            raise ValueError(f"bytes are left after byte {reader.place}")
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise FormatError(
            f"{path} cannot be read ({error}): expected a whole model.bin of CTranslate2 in version "
            f"{_VERSION}, in float32 or float16"
        ) from error
    return specification, tensors


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def number(self, kind: str) -> int:
        (found,) = struct.unpack_from(f"<{kind}", self.data, self.place)
        self.place += struct.calcsize(f"<{kind}")
        return int(found)

    def taken(self, count: int) -> memoryview:
        if count > len(self.data) - self.place:
            raise ValueError(f"it ends before byte {self.place + count}")
        self.place += count
        return memoryview(self.data)[self.place - count : self.place]

    def text(self) -> str:
        return bytes(self.taken(self.number("H"))).rstrip(b"\0").decode()

    def tensor(self) -> tuple[str, Array]:
        name = self.text()
        sizes = [self.number("I") for _ in range(self.number("B"))]
        kind, count = self.number("B"), self.number("I")
        if kind >= len(_DTYPES):
            raise ValueError(f"{name} has the dtype {kind}")
        return name, np.frombuffer(self.taken(count), _DTYPES[kind]).reshape(sizes)
