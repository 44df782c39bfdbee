"""The features of an x86 CPU by its CPUID registers, under LLVM's names.

Windows has no list of features: `IsProcessorFeaturePresent` does not know VNNI or AVX512BW. A feature of
wider registers counts only if the system saves those registers, which XCR0 tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from tbt_compile.codegen.target import cpuid

Registers = tuple[int, int, int, int]
"""EAX, EBX, ECX and EDX."""

_EAX, _EBX, _ECX, _EDX = range(4)
_OSXSAVE = 27
_YMM_SAVED, _ZMM_SAVED = 0b110, 0b1110_0110
_EXTENDED = 0x8000_0001
# Bits by leaf, subleaf and register. What is not listed, such as APX and AVX10, counts as missing: code for
# CPUs that have it is refused, and code without it runs.
_Table = dict[tuple[int, int, int], dict[str, int]]
_ANY: _Table = {
    (1, 0, _ECX): {"sse3": 0, "pclmul": 1, "ssse3": 9, "cx16": 13, "sse4.1": 19, "sse4.2": 20}
    | {"movbe": 22, "popcnt": 23},
    (1, 0, _EDX): {"cmov": 15, "sse": 25, "sse2": 26},
    (7, 0, _EBX): {"bmi": 3, "bmi2": 8, "adx": 19},
    (7, 0, _ECX): {"gfni": 8},
    (_EXTENDED, 0, _ECX): {"sahf": 0, "lzcnt": 5, "sse4a": 6, "tbm": 21},
}
_OF_YMM: _Table = {
    (1, 0, _ECX): {"fma": 12, "avx": 28, "f16c": 29},
    (7, 0, _EBX): {"avx2": 5},
    (7, 0, _ECX): {"vpclmulqdq": 10},
    (7, 1, _EAX): {"avxvnni": 4, "avxifma": 23},
    (7, 1, _EDX): {"avxvnniint8": 4, "avxneconvert": 5, "avxvnniint16": 10},
    (_EXTENDED, 0, _ECX): {"xop": 11, "fma4": 16},
}
_OF_ZMM: _Table = {
    (7, 0, _EBX): {"avx512f": 16, "avx512dq": 17, "avx512ifma": 21, "avx512cd": 28, "avx512bw": 30}
    | {"avx512vl": 31},
    (7, 0, _ECX): {"avx512vbmi": 1, "avx512vbmi2": 6, "avx512vnni": 11, "avx512bitalg": 12}
    | {"avx512vpopcntdq": 14},
    (7, 0, _EDX): {"avx512vp2intersect": 8, "avx512fp16": 23},
    (7, 1, _EAX): {"avx512bf16": 5},
}


def read() -> frozenset[str]:
    """The features of this machine's CPU.

    Raises:
        TargetError: the system does not let this process ask the CPU.
    """
    with cpuid.instructions() as ask:
        # Beyond the last leaf a CPU answers for another one.
        last, last_extended = ask.cpuid(0, 0)[_EAX], ask.cpuid(0x8000_0000, 0)[_EAX]
        leaves = {(1, 0): ask.cpuid(1, 0)}
        if last >= 7:
            leaves[7, 0] = ask.cpuid(7, 0)
            if leaves[7, 0][_EAX] >= 1:
                leaves[7, 1] = ask.cpuid(7, 1)
        if last_extended >= _EXTENDED:
            leaves[_EXTENDED, 0] = ask.cpuid(_EXTENDED, 0)
        saves = leaves[1, 0][_ECX] >> _OSXSAVE & 1
        return from_cpuid(leaves, ask.xcr0() if saves else 0)


def from_cpuid(leaves: Mapping[tuple[int, int], Registers], xcr0: int) -> frozenset[str]:
    """The features by recorded registers.

    Args:
        leaves: registers by leaf and subleaf: 1, 7, 7 with subleaf 1, and 0x80000001, if there are such.
        xcr0: extended control register 0; 0 if the system has not set OSXSAVE.

    Returns:
        The names of the features that code may use.
    """
    tables = [_ANY]
    if xcr0 & _YMM_SAVED == _YMM_SAVED:
        tables.append(_OF_YMM)
        if xcr0 & _ZMM_SAVED == _ZMM_SAVED:
            tables.append(_OF_ZMM)
    return frozenset(
        name
        for table in tables
        for (leaf, subleaf, register), bits in table.items()
        for name, bit in bits.items()
        if (leaf, subleaf) in leaves and leaves[leaf, subleaf][register] >> bit & 1
    )
