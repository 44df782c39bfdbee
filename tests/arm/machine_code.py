"""The instructions of a linked AArch64 library, as far as tests ask for them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_LOADED, _EXECUTABLE = 1, 1  # PT_LOAD and PF_X
# Mask and value of SDOT and UDOT: vector by vector, and vector by element. The rest are registers.
_DOT_PRODUCTS = ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000))


def dot_products(library: Path) -> int:
    """How many SDOT and UDOT instructions a library has."""
    words = _instructions(library)
    return sum(int(np.count_nonzero(words & mask == value)) for mask, value in _DOT_PRODUCTS)


def _instructions(library: Path) -> np.ndarray:
    """Every instruction of a 64-bit little-endian ELF file: what it has in segments that can be executed."""
    data = library.read_bytes()
    table, size, count = (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
    pieces = []
    for start in range(table, table + size * count, size):
        kind, flags, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, start)
        if kind == _LOADED and flags & _EXECUTABLE:
            pieces.append(np.frombuffer(data, "<u4", length // 4, offset))
    return np.concatenate(pieces)
