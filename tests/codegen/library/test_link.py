"""Linking: for this machine and another, with and without the linker package, and never half a file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te

from tbt_compile.codegen.library.library import Library, compile_functions
from tbt_compile.codegen.library.link import linker_command
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.errors import LoweringError, TargetError

OTHER_CPU = "haswell" if os.uname().machine == "aarch64" else "cortex-a72"
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(autouse=True)
def _without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBT_CACHE", "off")


def build(spec: TargetSpec) -> Library:
    """y = exp(x) + 1, which needs one function of the maths library."""
    x = te.placeholder((8,), name="x", dtype="float32")
    y = te.compute((8,), lambda i: te.exp(x[i]) + 1.0, name="y")
    return compile_functions({"exp_plus_one": te.create_prim_func([x, y])}, spec)


def run(path: Path) -> None:
    function = tvm.runtime.load_module(str(path))["exp_plus_one"]
    x = np.linspace(-2, 2, 8, dtype=np.float32)
    y = tvm.runtime.tensor(np.zeros(8, dtype=np.float32))
    function(tvm.runtime.tensor(x), y)
    np.testing.assert_allclose(y.numpy(), np.exp(x) + 1, rtol=1e-6)


def machine(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[18:20], "little")


def hide_linkers(monkeypatch: pytest.MonkeyPatch, keep: tuple[str, ...] = ()) -> None:
    find_spec, which = importlib.util.find_spec, shutil.which
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name)
    )
    monkeypatch.setattr(shutil, "which", lambda name: which(name) if name in keep else None)


def test_a_host_library_links_and_runs(tmp_path: Path) -> None:
    spec = parse_target("host")
    path = build(spec).export(tmp_path / "sub" / "model.so")
    assert [file.name for file in path.parent.iterdir()] == ["model.so"]
    run(path)


def test_a_library_for_another_architecture_links(tmp_path: Path) -> None:
    spec = parse_target(OTHER_CPU)
    path = build(spec).export(tmp_path / "model.so")
    assert machine(path) == ELF_MACHINES[spec.arch]


def test_the_old_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    spec = parse_target("host")
    path = tmp_path / "model.so"
    path.write_text("old")
    build(spec).export(path)
    run(path)


def test_a_system_compiler_serves_when_there_is_no_linker_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "bin" / "cc"
    compiler.parent.mkdir()
    compiler.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=os.pathsep)
    hide_linkers(monkeypatch, keep=("cc",))
    spec = parse_target("host")
    assert linker_command(spec) == ["cc"]
    run(build(spec).export(tmp_path / "model.so"))


@pytest.mark.parametrize("cpu", ["host", OTHER_CPU])
def test_no_linker_is_an_error_that_names_both_ways(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_linkers(monkeypatch)
    with pytest.raises(TargetError, match=r"pip install ziglang.*gcc-"):
        linker_command(parse_target(cpu))


def test_code_for_another_architecture_is_not_passed_off(tmp_path: Path) -> None:
    objects = build(parse_target(OTHER_CPU))._objects
    with pytest.raises(LoweringError, match=r"link"):
        Library(objects, parse_target("host")).export(tmp_path / "model.so")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_linker_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_target("host")
    path = tmp_path / "model.so"
    path.write_text("old")
    library = build(spec)
    done = subprocess.CompletedProcess([], 1, "", "out of memory")
    monkeypatch.setattr("tbt_compile.codegen.library.link.subprocess.run", lambda *args, **kwargs: done)
    with pytest.raises(LoweringError, match="out of memory"):
        library.export(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
