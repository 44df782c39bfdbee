"""The scripts in examples/benchmarks, as far as they can run anywhere and at once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tbt_compile.codegen.target import parse_target

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_help(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_the_inner_loop_is_found_and_its_surroundings() -> None:
    lines = [
        ".LBB0_1:",
        "\tmovi\tv0.2d, #0",
        ".LBB0_2:",
        "\tcnt\tv1.16b, v2.16b",
        "\tcnt\tv3.16b, v4.16b",
        "\tb.ne\t.LBB0_2",
        "\tuadalp\tv0.8h, v1.16b",
        "\tcbnz\tx0, .LBB0_1",
        "\tret",
    ]
    inner, rest = script("mca").hottest(lines, "cnt", each=2)
    assert inner == lines[2:6]
    assert rest == [*lines[:2], *lines[6:8]]


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
def test_every_kernel_has_the_loop_that_is_analysed(cpu: str) -> None:
    mca, spec = script("mca"), parse_target(cpu)
    for pair in mca.PAIRS:
        kernel = mca.quantized(pair, spec)
        inner, _ = mca.hottest(mca.assembly(kernel.function, spec), kernel.pattern, kernel.each)
        found = mca.count(inner, kernel.pattern)
        assert found > 0, pair
        assert found % kernel.each == 0, pair
