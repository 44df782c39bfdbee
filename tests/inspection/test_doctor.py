"""The self-test passes on every CPU whose code can run here and finds a kernel that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_tools import runnable

from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tools import self_test as tools
from tbt_compile.codegen.tools.self_test import FEW, MANY, self_test
from tbt_compile.inspection import doctor
from tbt_compile.inspection.doctor import Finding, diagnose


@pytest.mark.parametrize("cpu", runnable("haswell", "skylake-avx512"))
def test_kernels_equal_their_references(cpu: str) -> None:
    tests = list(self_test(parse_target(cpu)))
    assert [test for test in tests if not test.ok] == []
    assert {test.rows for test in tests} == {FEW, MANY}
    assert len({test.product for test in tests}) == len(tools.LINEAR) + 2 * len(tools.ATTENTION)
    assert all(test.elements and test.why for test in tests)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = tools.compile_kernel

    def wrong(function: Any, target: Any) -> Callable[..., None]:
        kernel = compiled(function, target)

        def run(*arguments: Any) -> None:
            kernel(*arguments)
            values = arguments[-1].numpy()
            values.flat[3] += 1
            arguments[-1].copyfrom(values)

        return run

    monkeypatch.setattr(tools, "compile_kernel", wrong)
    found = diagnose()
    assert not found.ok
    assert all(test.differing == 1 for test in found.kernels)
    assert found.to_dict()["kernels"][0]["ok"] is False


def findings(topic: str) -> dict[str, Finding]:
    return {each.name: each for each in getattr(doctor, f"_{topic}")()}


def test_findings_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert findings("machine")["CPU"].ok
    assert findings("versions")["apache-tvm"].value.startswith("0.27")
    monkeypatch.setenv("TBT_CACHE", "off")
    assert findings("cache")["kernels"].value == "off"
    monkeypatch.setenv("TBT_CACHE", str(tmp_path / "cache"))
    assert findings("cache")["size"].value.startswith("0 B in 0 files")
    monkeypatch.setenv("TBT_CACHE_MIB", "many")
    assert not findings("cache")["kernels"].ok
    monkeypatch.setenv("TVM_NUM_THREADS", "none")
    assert "expected a number from 1" in findings("threads")["per call"].advice
    found = diagnose()
    assert not found.ok and not found.kernels  # nothing can be run with these threads


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("numpy", "torch") else "1")
    needed, optional = findings("versions")["numpy"], findings("versions")["torch"]
    assert not needed.ok and needed.advice == "pip install numpy"
    assert optional.ok and optional.advice == "for preparing, freezing and compiling models"
