"""Runs the code of a library for macOS on Linux: maps its segments, and binds its symbols as its tables say.

    python macho.py FOLDER

calls the function `forward` of FOLDER/model.dylib with the arrays of FOLDER/arrays.npz: the input "x", the
unit's tensors "tensor_000" and so on, and "y" for the shape of the output. It writes FOLDER/found.npy.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tbt_compile.runtime import tvm_runtime
from tbt_compile.storage.aligned import aligned_copy, aligned_empty

_SEGMENT, _SYMBOLS, _TABLES = 0x19, 0x2, 0x8000_0022  # LC_SEGMENT_64, LC_SYMTAB, LC_DYLD_INFO_ONLY
_POINTER = 8
_TENSOR = 70  # kTVMFFITensor


class Image:
    """A library in memory.

    Args:
        path: its file.
        address_of: the address of a symbol of another library, by its name in C.

    Attributes:
        symbols: addresses by name in C.
    """

    def __init__(self, path: Path, address_of: Callable[[str], int]) -> None:
        self._content = path.read_bytes()
        self._address_of = address_of
        self._segments: list[int] = []
        self.symbols: dict[str, int] = {}
        commands = list(self._commands())
        sizes = [struct.unpack_from("<4Q", body, 16) for kind, body in commands if kind == _SEGMENT]
        end = max(address + size for address, size, _, _ in sizes)
        self._memory = mmap.mmap(-1, end, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for address, _, start, size in sizes:
            self._segments.append(address)
            self._memory[address : address + size] = self._content[start : start + size]
        for kind, body in commands:
            if kind == _SYMBOLS:
                self._read_symbols(*struct.unpack("<4I", body))
        for kind, body in commands:
            if kind == _TABLES:
                rebase, *tables = zip(*[iter(struct.unpack("<10I", body))] * 2, strict=True)
                for place, _ in self._steps(*rebase, pointers=True):
                    address = self._base + struct.unpack_from("<Q", self._memory, place)[0]
                    struct.pack_into("<Q", self._memory, place, address)
                for table in tables[:3]:  # bound at loading, weak, and lazy
                    for place, name in self._steps(*table):
                        struct.pack_into("<Q", self._memory, place, self._resolved(name))

    def _commands(self) -> Iterator[tuple[int, bytes]]:
        (count,), place = struct.unpack_from("<I", self._content, 16), 32
        for _ in range(count):
            kind, size = struct.unpack_from("<2I", self._content, place)
            yield kind, self._content[place + 8 : place + size]
            place += size

    def _text(self, place: int) -> str:
        return self._content[place : self._content.index(b"\0", place)].decode()

    def _read_symbols(self, start: int, count: int, names: int, _size: int) -> None:
        for index in range(count):
            name, kind, _, _, value = struct.unpack_from("<IBBHQ", self._content, start + 16 * index)
            if kind & 0x0E == 0x0E:  # defined in a section
                self.symbols[self._text(names + name).removeprefix("_")] = self._base + value

    def _resolved(self, name: str) -> int:
        if name == "dyld_stub_binder":  # never called: everything is bound before the first call
            return 0
        return self.symbols.get(name.removeprefix("_")) or self._address_of(name.removeprefix("_"))

    def _steps(self, start: int, size: int, pointers: bool = False) -> Iterator[tuple[int, str]]:
        """Run a table: places to write to, and names of symbols; the library's own `pointers` have none."""
        place, end, segment, offset, name = start, start + size, 0, 0, ""

        def number() -> int:
            nonlocal place
            value = shift = 0
            while True:
                part = self._content[place]
                place += 1
                value |= (part & 0x7F) << shift
                shift += 7
                if part < 0x80:
                    return value

        while place < end:
            code, value = self._content[place] & 0xF0, self._content[place] & 0x0F
            place += 1
            times, skipped = 0, 0
            if code == (0x20 if pointers else 0x70):
                segment, offset = value, number()
            elif code == (0x30 if pointers else 0x80):
                offset += number()
            elif code == 0x40 and not pointers:
                name = self._text(place)
                place += len(name) + 1
            elif code == 0x50 and pointers:
                times = value
            elif code == 0x60 and pointers:
                times = number()
            elif code == 0x70 and pointers:
                times, skipped = 1, number()
            elif code == 0x80 and pointers:
                times, skipped = number(), number()
            elif code == 0x90 and not pointers:
                times = 1
            elif code == 0xA0 and not pointers:
                times, skipped = 1, number()
            elif code == 0xB0 and not pointers:
                times, skipped = 1, value * _POINTER
            elif code not in (0x00, 0x10, 0x30, 0x50):  # ends, and where a symbol is to be found
                raise ValueError(f"opcode {code:#x} of {self._content[place - 1]:#x} is not known")
            for _ in range(times):
                yield self._segments[segment] + offset, name
                offset += _POINTER + skipped


class _Any(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_void_p)]


def _loaded() -> list[ctypes.CDLL]:
    """The libraries that this process has: C, TVM's runtime and its interface."""
    maps = Path("/proc/self/maps").read_text().split()
    return [ctypes.CDLL(None), *(ctypes.CDLL(name) for name in sorted(set(maps)) if "libtvm_" in name)]


def main(folder: Path) -> None:
    """Call `forward` as a compiled module does."""
    libraries = _loaded()

    def address_of(name: str) -> int:
        library = next(each for each in libraries if hasattr(each, name))
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0

    image = Image(folder / "model.dylib", address_of)
    for name, place in image.symbols.items():
        if name.startswith("__TVMBackend"):  # which TVM does when it loads a library
            ctypes.c_uint64.from_address(place).value = address_of(name.removeprefix("__"))
    arrays = np.load(folder / "arrays.npz")
    tensors = [aligned_copy(arrays[name]) for name in sorted(arrays) if name.startswith("tensor_")]
    places = aligned_empty((len(tensors),), np.int64)
    places[:] = [tensor.ctypes.data - places.ctypes.data for tensor in tensors]
    found = aligned_empty(arrays["y"].shape, np.float32)
    passed = [tvm_runtime.shared_tensor(each) for each in (aligned_copy(arrays["x"]), places, found)]
    arguments = (_Any * 3)(*(_Any(_TENSOR, 0, int(tensor.__chandle__())) for tensor in passed))
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)
    forward = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(image.symbols["__tvm_ffi_forward"])
    if forward(None, ctypes.addressof(arguments), 3, ctypes.addressof(_Any())) != 0:
        raise RuntimeError("the call of forward failed")
    np.save(folder / "found.npy", found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
