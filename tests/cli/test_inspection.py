"""The commands that show and check models: summary, verify, doctor and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tbt_compile
from tbt_compile.preparation import load_prepared

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


def test_verify_says_whether_a_folder_is_equal(tbt, trained: Path, several: Path, tmp_path: Path) -> None:
    figures = tmp_path / "nodes.json"
    student = trained / "student-2-2-2"
    done = tbt("verify", student, several / "model", "one two three", "four", "--json", figures)
    assert (done.code, done.err) == (0, "")
    assert "equal to its frozen model" in done.out
    found = json.loads(figures.read_text())
    assert found["ok"] and found["agreement"] >= 0.99 and found["first_divergence"] is None
    assert all(node["differing"] == 0 for node in found["nodes"])
    swapped = tbt("verify", student, student)
    assert swapped.code == 2 and "is not compiled" in swapped.err


def test_verify_fails_on_an_altered_scale(tbt, trained: Path, several: Path, tmp_path: Path) -> None:
    frozen = tbt_compile.freeze(load_prepared(trained / "student-2-2-2"))
    with torch.no_grad():
        frozen.module.get_submodule("model.encoder.layers.0.fc2.weight_quantizer").scale.mul_(1.5)
    frozen.save(tmp_path / "altered")
    done = tbt("verify", tmp_path / "altered", several / "model", "--nodes", "--least", 0)
    assert done.code == 1
    assert "first divergence: tbt::bit_linear of model.encoder.layers.0.fc2 in encoder" in done.out
    assert "model.decoder.layers.0.fc2" in done.out


def test_doctor_tests_this_machine_without_torch(tbt) -> None:
    found = tbt("doctor", "--json", "-").json()
    assert found["ok"] and found["kernels"]
    done = without_torch("doctor")
    assert done.returncode == 0
    count = len(found["kernels"])
    assert f"{count} of {count} kernels equal their reference" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tbt su", ["summary"]),
        ("tbt verify --nod", ["--nodes"]),
        ("tbt lower --target cortex-a7", ["cortex-a72"]),
    ],
)
def test_the_shell_completes_words(words: str, expected: list[str]) -> None:
    code = "import sys; sys.argv = ['tbt']; from tbt_compile.cli import main; main()"
    asked = {
        "_TBT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert set(expected) <= set(done.stdout.split()), done.stderr
    assert all(word.startswith(words.split()[-1]) for word in done.stdout.split())


def data_of(page: Path) -> dict:
    """The report in a page."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_report_of_a_trained_folder_with_all_that_belongs_to_it(tbt, trained: Path, tmp_path: Path) -> None:
    student, compiled, page = trained / "student-2-2-2", tmp_path / "compiled", tmp_path / "report.html"
    assert tbt("lower", student, "--clock", "-o", compiled).code == 0
    assert tbt("run", compiled, "one two three", "--json", tmp_path / "texts.json").code == 0
    options = ("--compiled", compiled, "--texts", f"a={tmp_path / 'texts.json'}", "-o", page)
    done = tbt("report", student, *options)
    assert (done.code, "BartForConditionalGeneration at 2-2-2" in done.out) == (0, True)
    data = data_of(page)
    assert data["samples"]["rows"][0][0] == "one two three"
    assert data["histograms"]["call"].startswith("the source of the first text: ")
    assert data["times"]["total"] > 0 and "1 thread" in data["times"]["work"]
    assert data["graphs"]["recipe"] == "2-2-2" and "missing" in data["benchmarks"]


def test_report_of_other_stages(tbt, trained: Path, compiled: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert tbt("report", trained / "teacher", "--recipe", "1-1-1", "-o", page).code == 0
    data = data_of(page)
    assert data["graphs"]["recipe"] == "1-1-1" and "in full precision" in dict(data["facts"])["stage"]
    done = without_torch("report", compiled, "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    data = data_of(page)
    assert "compiled from" in data["graphs"]["missing"] and "--clock" in data["times"]["missing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--texts", "file.json"), "expected NAME=FILE"),
        (("--texts", "a=1.json", "--texts", "a=2.json"), "a name of its own"),
        (("--texts", "a=missing.json"), "missing.json cannot be read"),
        (("--bench", "missing.json"), "missing.json cannot be read"),
        (("--recipe", "2-2-2"), "has one already"),
        (("-o", "missing/report.html"), "a folder that exists"),
        (("--compiled", "."), "holds no model"),
    ],
)
def test_report_names_what_is_wrong(
    tbt, trained: Path, tmp_path: Path, options, message, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = tbt("report", trained / "student-2-2-2", "-o", "report.html", *options)
    assert refused.code == 2 and message in refused.err
    assert list(tmp_path.iterdir()) == []
