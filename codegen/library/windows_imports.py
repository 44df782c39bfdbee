"""What a Windows library needs besides its objects: DLLs are complete, no symbol is looked up in the process.

The names of functions are bound to the DLLs that have them by import libraries, which the linker's `dlltool`
makes of lists of names. The DLLs of C are those that TVM's own DLLs import.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_FLOAT_TOO = (
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh"),
    *("erf", "erfc", "exp", "exp2", "expm1", "fdim", "floor", "fma", "fmax", "fmin", "fmod", "lgamma", "log"),
    *("log10", "log1p", "log2", "logb", "lrint", "lround", "nearbyint", "nextafter", "pow", "remainder"),
    *("rint", "round", "sin", "sinh", "sqrt", "tan", "tanh", "tgamma", "trunc"),
)
_IMPORTS = {
    "tvm_ffi.dll": ("TVMFFIErrorSetRaisedFromCStrParts",),
    "VCRUNTIME140.dll": ("memcmp", "memcpy", "memmove", "memset"),
    "api-ms-win-crt-math-l1-1-0.dll": tuple(f"{name}{type_}" for name in _FLOAT_TOO for type_ in ("", "f")),
}
# Two symbols of the C runtime's static part. `_fltused` only tells it that floats are used. LLVM calls
# `__chkstk` where a function takes more than a page of stack, which Windows maps page by page: it touches
# every page of the RAX bytes below the stack pointer, and changes no register.
_RUNTIME = """
    .globl _fltused
    .globl __chkstk
    .set _fltused, 0x9875
__chkstk:
    pushq %rcx
    pushq %rax
    leaq 24(%rsp), %rcx
1:  cmpq $4096, %rax
    jb 2f
    subq $4096, %rcx
    orb $0, (%rcx)
    subq $4096, %rax
    jmp 1b
2:  subq %rax, %rcx
    orb $0, (%rcx)
    popq %rax
    popq %rcx
    retq
"""


def sources() -> dict[str, str]:
    """The texts that the inputs are made of, by file name; a linked library depends on them."""
    lists = {
        f"{dll}.def": "\n".join((f"LIBRARY {dll}", "EXPORTS", *names, "")) for dll, names in _IMPORTS.items()
    }
    return {"runtime.s": _RUNTIME, **lists}


def write_inputs(folder: Path, dlltool: Callable[[list[str]], None]) -> list[str]:
    """Write the further inputs of the linker to a folder; returns their paths.

    `dlltool` runs that program with arguments.
    """
    inputs = []
    for name, text in sources().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".def":
            library = path.with_suffix(".lib")
            dlltool(["-m", "i386:x86-64", "-d", str(path), "-l", str(library)])
            path = library
        inputs.append(str(path))
    return inputs
