"""The instructions CPUID and XGETBV, which Python does not offer: machine code for Windows."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tbt_compile.errors import TargetError

# Functions of Windows's calling convention (RCX, EDX, R8D; RBX and others belong to the caller).
CPUID = bytes.fromhex(
    "53"  # push rbx
    "4989c9"  # mov r9, rcx: where the registers go
    "89d0"  # mov eax, edx: the leaf
    "4489c1"  # mov ecx, r8d: the subleaf
    "0fa2"  # cpuid
    "418901"  # mov [r9], eax
    "41895904"  # mov [r9 + 4], ebx
    "41894908"  # mov [r9 + 8], ecx
    "4189510c"  # mov [r9 + 12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
XGETBV = bytes.fromhex(
    "4989c9"  # mov r9, rcx: where the value goes
    "31c9"  # xor ecx, ecx: XCR0
    "0f01d0"  # xgetbv
    "418901"  # mov [r9], eax
    "41895104"  # mov [r9 + 4], edx
    "c3"  # ret
)
_COMMIT, _RELEASE = 0x3000, 0x8000  # MEM_COMMIT | MEM_RESERVE, MEM_RELEASE
_WRITABLE, _EXECUTABLE = 0x04, 0x20  # PAGE_READWRITE, PAGE_EXECUTE_READ


@dataclass(frozen=True)
class Instructions:
    """Both functions in executable memory.

    Attributes:
        cpuid_at: address of `CPUID`.
        xgetbv_at: address of `XGETBV`.
    """

    cpuid_at: int
    xgetbv_at: int

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """The registers EAX, EBX, ECX and EDX after CPUID."""
        found = (ctypes.c_uint32 * 4)()
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
        function(self.cpuid_at)(ctypes.addressof(found), leaf, subleaf)
        eax, ebx, ecx, edx = found
        return eax, ebx, ecx, edx

    def xcr0(self) -> int:
        """Extended control register 0; CPUID has to say OSXSAVE before it may be read."""
        found = ctypes.c_uint64()
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.xgetbv_at)(ctypes.addressof(found))
        return found.value


@contextmanager
def instructions() -> Iterator[Instructions]:
    """The functions in memory that Windows lets this process execute, for the block.

    Raises:
        TargetError: Windows refuses, as it does under the policy "arbitrary code guard".
    """
    kernel32 = _kernel32()
    code = CPUID + XGETBV
    memory = kernel32.VirtualAlloc(None, len(code), _COMMIT, _WRITABLE)
    if not memory:
        raise _refused()
    try:
        ctypes.memmove(memory, code, len(code))
        before = ctypes.c_uint32()
        if not kernel32.VirtualProtect(memory, len(code), _EXECUTABLE, ctypes.byref(before)):
            raise _refused()
        yield Instructions(memory, memory + len(CPUID))
    finally:
        kernel32.VirtualFree(memory, 0, _RELEASE)


def _kernel32() -> Any:
    library = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    size, word, pointer = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p
    library.VirtualAlloc.argtypes = (pointer, size, word, word)
    library.VirtualAlloc.restype = pointer
    library.VirtualProtect.argtypes = (pointer, size, word, pointer)
    library.VirtualFree.argtypes = (pointer, size, word)
    return library


def _refused() -> TargetError:
    return TargetError(
        "Windows does not let this process execute the instruction CPUID, by which the features of the CPU "
        "are read: exempt python.exe from the policy 'arbitrary code guard' to run compiled models"
    )
