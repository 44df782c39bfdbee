"""The commands that show and check models: `tbt summary`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = (
    "import sys; sys.modules.update(torch=None, transformers=None); "
    "from tbt_compile.cli import main; sys.argv = ['tbt', *sys.argv[1:]]; main()"
)


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `tbt` in a process that has no PyTorch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_summary_shows_every_stage(tbt, trained: Path, several: Path) -> None:
    prepared = tbt("summary", trained / "student-2-2-2", "--json", "-").json()
    compiled = tbt("summary", several / "model", "--json", "-").json()
    teacher = tbt("summary", trained / "teacher", "--json", "-").json()
    assert [each["stage"] for each in (teacher, prepared, compiled)] == ["float", "prepared", "compiled"]
    assert prepared["totals"]["macs"] == compiled["totals"]["macs"]
    assert teacher["totals"]["parameters"] == compiled["totals"]["parameters"]
    asked = tbt("summary", trained / "teacher", "--recipe", "2-2-2", "--depth", 1).out
    assert asked.splitlines()[0].startswith("BartForConditionalGeneration, prepared at 2-2-2: ")
    assert "left in float: 0.0%" in asked and "encoder" not in asked
    refused = tbt("summary", trained / "student-2-2-2", "--recipe", "1-1-1")
    assert refused.code == 2 and "has a recipe already" in refused.err


def test_summary_of_a_compiled_folder_needs_no_torch(compiled: Path) -> None:
    done = without_torch("summary", compiled, "--depth", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compiled at 2-2-2" in done.stdout and "(libraries)" in done.stdout


@pytest.mark.parametrize("folder", ["missing", "."])
def test_summary_names_what_is_wrong(tbt, folder: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tbt("summary", folder).code == 2
