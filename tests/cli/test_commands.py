"""The command line as a whole: help, errors, `targets`, `bench` and `demo` without their long work."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tbt_compile
from tbt_compile.bench.job import Row
from tbt_compile.cli import console
from tbt_compile.errors import TbtError

COMMANDS = (
    *("demo", "train", "evaluate", "lower", "run", "reproduce"),
    *("summary", "verify", "doctor"),
    *("bench generate", "bench growth", "bench kernels", "tune", "targets", "operators"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_gives_examples(tbt, command: str) -> None:
    result = tbt(*command.split(), "--help")
    assert result.code == 0
    assert f"tbt {command}" in result.out
    assert "Examples:" in result.out
    assert "--json" in result.out


def test_help_of_the_whole_names_every_command(tbt) -> None:
    result = tbt("--help")
    assert result.code == 0
    assert all(command.split()[0] in result.out for command in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, tbt_compile.cli.app; "
        "heavy = {'torch', 'transformers', 'tvm', 'datasets', 'numpy', 'tokenizers'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_expected_error_is_one_line_and_code_2(tbt) -> None:
    result = tbt("bench", "generate", "--shape", "bart-bse")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: unknown shape 'bart-bse'")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("lower", "no-model", "-o", "compiled", "--json", "file/a.json"),
        ("tune", "--json", "file/a.json"),
        ("evaluate", "no-model", "--data", "no-data", "--texts", "file/a.json"),
        ("bench", "kernels", "--plot", "file/a.json"),
        ("bench", "growth", "--plot", "file/a.json"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    tbt, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = tbt(*arguments)
    assert result.code == 2
    assert result.err.startswith("error: cannot write file/a.json: Not a directory")


def test_tiles_that_cannot_be_written_are_not_measured(
    tbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tbt_compile.codegen.tools.tuner.tune", lambda *_: pytest.fail("measured"))
    result = tbt("tune", "-o", tmp_path / "file" / "tiles.json")
    assert (result.code, "file/tiles.json: Not a directory" in result.err) == (2, True)


def test_the_version(tbt) -> None:
    assert tbt("--version").out == f"tbt_compile {tbt_compile.__version__}\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from tbt_compile.cli import main

    monkeypatch.setattr(sys, "argv", ["tbt", "--debug", "bench", "generate", "--shape", "bart-bse"])
    with pytest.raises(TbtError, match="bart-bse"):
        main()


def test_tune_writes_the_file_and_shows_what_it_gains(
    tbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tbt_compile.codegen.target import tiles
    from tbt_compile.codegen.target.parse import parse_target
    from tbt_compile.codegen.tools import tuner

    result = {
        "rows": 1,
        "vectors": 2,
        "measured": {"cpu": "x", "shape": "1x2x3", "us": {"1 x 4": 3.0, "1 x 2": 2.0}},
    }
    monkeypatch.setattr(tuner, "tune", lambda spec, progress: {"row a*b": result})
    file = tmp_path / "tiles.json"
    shown = tbt("tune", "--output", file)
    assert shown.code == 0
    assert "1.50x" in shown.out
    assert tiles.read(file) == {tiles.isa_class(parse_target("host").isa): {"row a*b": result}}
    file.write_text("no")
    assert "is not a tile file" in tbt("tune", "--output", file).err


def test_operators_lists_how_each_is_compiled(tbt) -> None:
    found = tbt("operators", "--json", "-").json()["operators"]
    assert found["linear.default"] == found["softmax.int"] == "kernel of tbt-compile or TVM"
    assert found["mish.default"] == "decomposed"
    assert "_linalg_eigh.default" not in found
    assert "mish.default" in tbt("operators").out


def test_operators_filters_by_name(tbt) -> None:
    found = tbt("operators", "aten.CumSum", "--json", "-").json()["operators"]
    assert "cumsum.default" in found
    assert all("cumsum" in name for name in found)
    shown = tbt("operators", "cumsum").out
    assert "cumsum.default" in shown and "linear" not in shown
    unknown = tbt("operators", "cumsmu")
    assert unknown.code == 2
    assert "'cumsmu' in its name. Did you mean cumsum?" in unknown.err


def test_targets_lists_the_usual_ones_or_all(tbt, tmp_path: Path) -> None:
    usual = tbt("targets")
    assert usual.code == 0
    assert "cortex-a72" in usual.out
    assert "raspberrypi4" in usual.out
    everything = tbt("targets", "--all", "--json", "-").json()
    assert {"x86_64", "aarch64"} == {row["arch"] for row in everything["targets"]}
    assert everything["host"]["cpu"] in usual.out
    file = tmp_path / "targets.json"
    assert tbt("targets", "--json", file).code == 0
    assert len(json.loads(file.read_text())["targets"]) < len(everything["targets"])


def test_lower_looks_at_its_output_first(tbt, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("thesis")
    result = tbt("lower", tmp_path / "nothing", "--output", tmp_path)
    assert result.code == 2
    assert f"{tmp_path} exists and is not a model folder: remove it or choose another place" in result.err


def test_lower_does_not_write_over_its_source(tbt, tmp_path: Path) -> None:
    result = tbt("lower", tmp_path, "--output", tmp_path / "x" / "..")
    assert result.code == 2
    assert "is the folder of the model to compile, which would be lost" in " ".join(result.err.split())


def test_the_folder_of_a_file_is_made(tbt, tmp_path: Path) -> None:
    result = tbt("targets", "--json", tmp_path / "new" / "targets.json")
    assert (result.code, bool(json.loads((tmp_path / "new" / "targets.json").read_text()))) == (0, True)


def bench_result(settings: Any) -> dict[str, Any]:
    row = {"encoder_ms": 100.0, "tokens_per_second": 50.0, "size_mib": 10.0, "peak_mib": 99.0, "samples": {}}
    rows = [
        Row("torch int8 dynamic", token_ms=20.0, **row),
        Row("CTranslate2 int8", skipped="ctranslate2 is not installed"),
        *(Row(f"tbt {recipe}", token_ms=5.0, **row) for recipe in settings.recipes),
    ]
    machine = {"cpu": "a CPU", "llvm_cpu": "znver4", "vector_bits": 512, "load_average": 0.1, "versions": {}}
    return {
        "conditions": machine,
        "settings": dict(vars(settings)),
        "rows": [vars(row) for row in rows],
    }


def test_bench_generate_shows_and_writes_every_row(
    tbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fake(settings: Any, progress: Any) -> dict[str, Any]:
        asked.append(settings)
        progress("measuring", 0.5)
        return bench_result(settings)

    monkeypatch.setattr("tbt_compile.bench.generation.run", fake)
    file = tmp_path / "out.json"
    arguments = ["--shape", "tiny", "--recipe", "1-1-1, 2-2-2", "--threads", 2, "--no-peers", "--json", file]
    arguments += ["--batch", 3, "--beams", 4, "--lengths", "mixed"]
    result = tbt("bench", "generate", *arguments)
    assert result.code == 0, result.err
    assert asked[0].recipes == ("1-1-1", "2-2-2")
    assert (asked[0].threads, asked[0].peers) == (2, False)
    assert (asked[0].batch, asked[0].beams, asked[0].lengths) == (3, 4, "mixed")
    assert "3 text(s) of up to 512 tokens, 64 new ones with 4 beams" in result.out
    assert "tbt 2-2-2" in result.out
    assert "4.00x" in result.out
    assert "ctranslate2 is not installed" in result.out
    assert len(json.loads(file.read_text())["rows"]) == 4


def test_demo_shows_its_table(tbt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbt_compile.demo import DemoResult, DemoRow
    from tbt_compile.evaluation import RougeScores

    rows = (
        DemoRow("teacher", "torch", 96, 90, 95, 8, 4.6, 20),
        DemoRow("2-2-2", "compiled", 92, 85, 91, 8, 0.5, 1.5, same_greedy=0.996, same_beam=0.99),
    )
    item = {"item": "a news item", "summary": "news", "2-2-2, compiled": "new"}
    baselines = (RougeScores(40, 20, 39, 39), RougeScores(20, 5, 19, 19))
    result = DemoResult(rows, *baselines, samples=(item, item), conditions={})
    calls = []
    module = importlib.import_module("tbt_compile.demo.run")
    monkeypatch.setattr(module, "run", lambda *arguments: calls.append(arguments) or result)
    shown = tbt("demo", "--output", tmp_path, "--no-resume", "--json", tmp_path / "demo.json")
    assert shown.code == 0, shown.err
    assert calls[0][:2] == (tmp_path, False)
    assert "99.6% / 99.0%" in shown.out
    assert "ROUGE-1 40.0" in shown.out
    assert f"tbt run {tmp_path}/compiled-2-2-2" in shown.out
    assert json.loads((tmp_path / "demo.json").read_text())["rows"][1]["same_greedy"] == 0.996


def test_progress_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bar("starting") as progress:
        progress("teacher: step 1 of 9", 0.1)
        progress("teacher: step 2 of 9", 0.2)
        progress("student: step 1 of 9", 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in lines] == ["10% teacher: step 1 of 9", "50% student: step 1 of 9"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo"], "interrupted; the same command goes on from here"),
        (["--debug", "reproduce", "table3"], "interrupted; the same command goes on from here"),
        (["train", "--no-resume"], "interrupted"),
        (["lower", "demo"], "interrupted"),
    ],
)
def test_an_interrupt_says_whether_the_command_goes_on(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise SystemExit(130)

    app, codes = importlib.import_module("tbt_compile.cli.app"), []
    monkeypatch.setattr(app, "app", stopped)
    monkeypatch.setattr(app.os, "_exit", codes.append)
    monkeypatch.setattr(app.sys, "argv", ["tbt", *arguments])
    app.main()
    assert capsys.readouterr().err.strip() == said
    assert codes == [130]
