"""Compiled functions are cached: by their content, with the same code as when they are compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.library import objects
from tbt_compile.codegen.library.library import Library, compile_functions
from tbt_compile.codegen.target.host import host_target
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tvm_api import PrimFunc, T, call_packed, tensor_argument, tvm
from tbt_compile.errors import LoweringError

HOST = host_target()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TBT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scaled(factor: float) -> PrimFunc:
    """y = factor * x + x for 8 floats."""

    def body() -> None:
        x, y = (emit.argument(name, (8,), "float32") for name in "xy")
        with emit.loop("k", 8) as k:
            emit.store(y, x[k] * T.float32(factor) + x[k], k)

    return emit.function("scaled", body)


def run(library: Library, name: str = "kernel") -> list[float]:
    x, y = np.arange(8, dtype=np.float32), tvm.runtime.tensor(np.zeros(8, np.float32))
    library[name](tvm.runtime.tensor(x), y)
    result: list[float] = y.numpy().tolist()
    return result


def uncompiled(*_: Any) -> Any:
    raise AssertionError("compiled again")


def test_a_function_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = compile_functions({"kernel": scaled(1 / 3)}, HOST)
    saved = first.export(tmp_path / "first.so").read_bytes()
    expected = run(first)
    assert len(list(cache.iterdir())) == 2  # the object and the library
    monkeypatch.setattr(objects, "llvm_module", uncompiled)
    again = compile_functions({"kernel": scaled(1 / 3)}, HOST)
    assert run(again) == expected
    assert again.export(tmp_path / "again.so").read_bytes() == saved
    monkeypatch.undo()
    monkeypatch.setenv("TBT_CACHE", "off")
    fresh = compile_functions({"kernel": scaled(1 / 3)}, HOST)
    assert run(fresh) == expected
    assert fresh.export(tmp_path / "fresh.so").read_bytes() == saved


def test_libraries_share_the_code_of_functions(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(compile_functions({"a": scaled(2), "b": scaled(3)}, HOST), "a")
    monkeypatch.setattr(objects, "llvm_module", uncompiled)
    other = compile_functions({"b": scaled(3)}, HOST)
    assert run(other, "b") == [4.0 * k for k in range(8)]


@pytest.mark.parametrize(
    ("name", "factor", "cpu"),
    [
        ("kernel", np.nextafter(np.float32(2), np.float32(3)), "host"),
        ("other", 2.0, "host"),
        ("kernel", 2.0, "haswell"),
    ],
    ids=["a number", "the name", "the CPU"],
)
def test_what_the_code_depends_on_is_in_the_key(name: str, factor: float, cpu: str) -> None:
    def key(name: str, factor: float, cpu: str) -> str:
        (compiled,) = compile_functions({name: scaled(factor)}, parse_target(cpu))._objects
        return compiled.key

    assert key("kernel", 2.0, "host") == key("kernel", 2.0, "host")
    assert key(name, float(factor), cpu) != key("kernel", 2.0, "host")


def test_another_version_of_the_compiler_compiles_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run(compile_functions({"kernel": scaled(2)}, HOST))
    monkeypatch.setattr(objects, "_compiler", lambda: ("the next version",))
    monkeypatch.setattr(objects, "llvm_module", uncompiled)
    with pytest.raises(AssertionError, match="compiled again"):
        compile_functions({"kernel": scaled(2)}, HOST)


def test_a_damaged_cache_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = run(compile_functions({"kernel": scaled(2)}, HOST))
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    assert run(compile_functions({"kernel": scaled(2)}, HOST)) == expected
    assert "damaged" in caplog.text


def test_a_cache_that_cannot_be_written_changes_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file")
    assert run(compile_functions({"kernel": scaled(2)}, HOST)) == [3.0 * k for k in range(8)]
    assert "TBT_CACHE" in caplog.text


def test_processes_that_compile_the_same_at_once_do_not_disturb_each_other(cache: Path) -> None:
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import torch\nfrom tbt_compile.ops.exact import exact\n"
        "with exact(): print(torch.arange(6.0).softmax(0).tolist())"
    )
    commands = [[sys.executable, "-c", program] for _ in range(2)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    texts = [process.communicate()[0] for process in running]
    assert texts[0] == texts[1] != ""
    assert subprocess.run(commands[0], stdout=subprocess.PIPE, text=True, check=True).stdout == texts[0]


def test_functions_call_each_other_as_often_as_they_like() -> None:
    def twice() -> None:
        x, y = (emit.argument(name, (8,), "float32") for name in "xy")
        declared: set[str] = set()
        for source, target in ((x, y), (y, y), (y, y)):
            passed = [tensor_argument(each.data, [T.int64(8)], "float32") for each in (source, target)]
            T.evaluate(call_packed("scaled", passed, declared))

    functions = {"scaled": scaled(1), "twice": emit.function("twice", twice)}
    assert run(compile_functions(functions, HOST), "twice") == [8.0 * k for k in range(8)]


def test_a_library_for_another_machine_says_so() -> None:
    other = parse_target("cortex-a72" if HOST.arch == "x86_64" else "haswell")
    with pytest.raises(LoweringError, match=r"cannot be loaded.*TMPDIR"):
        compile_functions({"kernel": scaled(2)}, other)["kernel"]
