"""Shared libraries by path: what is loaded is the file that is there now."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tbt_compile.codegen.library.link import linker_command
from tbt_compile.codegen.target.host import host_target
from tbt_compile.runtime.tvm_runtime import load_library

SOURCE = """
typedef struct {{ int type, zero; long long value; }} Any;
int __tvm_ffi_answer(void *self, const Any *arguments, int count, Any *result) {{
    result->type = 1;
    result->zero = 0;
    result->value = {answer};
    return 0;
}}
"""


def library(path: Path, answer: int) -> None:
    source = path.with_name(f"{answer}.c")
    source.write_text(SOURCE.format(answer=answer))
    linked = path.with_name(f"{answer}.so")
    flags = ["-shared", "-fPIC", "-nostdlib", "-fno-sanitize=undefined"]
    subprocess.run([*linker_command(host_target()), *flags, "-o", linked, source], check=True)
    linked.replace(path)


def test_a_library_that_was_replaced_since_it_was_loaded(tmp_path: Path) -> None:
    """The dynamic linker would return the old one for the same name."""
    path = tmp_path / "model.so"
    library(path, 1)
    first = load_library(path)
    again = load_library(path)
    library(path, 2)
    second = load_library(path)
    assert [loaded["answer"]() for loaded in (first, again, second)] == [1, 1, 2]
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert len({line.split()[4] for line in maps if str(path) in line}) == 2  # each is mapped once
