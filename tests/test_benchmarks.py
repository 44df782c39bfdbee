"""The scripts in examples/benchmarks, as far as they can run anywhere and at once."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from tbt_compile.codegen.target.parse import parse_target

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # a script may import its neighbours
        spec.loader.exec_module(module)
    return module


PROGRAMS = sorted(path for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run as a program, in this process: a new one would import PyTorch and TVM for each."""
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(FOLDER)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out


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
    inner, rest = script("mca").hottest(lines, "cnt", each=2, unpacks=False)
    assert inner == lines[2:6]
    assert rest == [*lines[:2], *lines[6:8]]


@pytest.mark.parametrize(
    ("cpu", "rows"), [("cortex-a72", 64), ("cortex-a76", 64), ("cortex-a76", 8), ("neoverse-v1", 8)]
)
def test_every_kernel_has_the_loop_that_is_analysed(cpu: str, rows: int) -> None:
    mca, spec = script("mca"), parse_target(cpu)
    for pair in mca.DEFAULT_OPERATORS:
        kernel = mca.quantized(pair, rows, spec)
        lines = mca.assembly(kernel.function, spec)
        inner, _ = mca.hottest(lines, kernel.pattern, kernel.each, kernel.unpacks)
        found = mca.count(inner, kernel.pattern)
        assert found > 0, pair
        assert found % kernel.each == 0, pair


def test_agreement_reads_what_each_kind_of_model_writes() -> None:
    agreement = script("agreement")
    for two_parts, ids, mask, written in (
        (True, [[5, 6, 7, 1], [8, 1, 1, 1]], [[1, 1, 1, 0], [1, 0, 0, 0]], [6, 9, 2]),
        (False, [[1, 5, 6, 7], [1, 1, 1, 8]], [[0, 1, 1, 1], [0, 0, 0, 1]], [9, 2]),
    ):
        eager = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=two_parts))
        case = agreement.Case(eager, None, Path(), [[5, 6, 7], [8]])
        padded = case.padded(case.sentences, more=1)
        assert [part.tolist() for part in padded] == [ids, mask]
        assert case.new_tokens([5, 6, 9, 2, 1], prompt=2) == written


def test_agreement_of_a_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Measured in a process with two threads; what only reads the file runs in this one."""
    file = tmp_path / "agreement.json"
    command = [str(FOLDER / "agreement.py"), "--families", "gpt2", "--recipes", "1-1-1"]
    command += ["--sentences", "4", "--json", str(file)]
    environment = os.environ | {"TVM_NUM_THREADS": "2"}
    first = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment
    )
    assert first.returncode == 0, first.stderr
    (row,) = json.loads(file.read_text())["rows"]
    shares = ["greedy", "beam 4", "prepared", "batched", "padded", "2 threads", "padded, 2 threads"]
    assert [row[name] for name in shares] == [1.0] * 7
    assert row["outputs"] == 4
    monkeypatch.syspath_prepend(FOLDER)

    def again(*more: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with suppress(SystemExit):
            runpy.run_path(command[0], run_name="__main__")
        return capfd.readouterr()

    out, err = again()
    assert out == first.stdout
    assert "gpt2" not in err
    assert "name another file" in again("--seed", "1")[1]
    assert "known are bart" in again("--families", "bert")[1]


def test_weights_of_the_baselines_are_those_of_tbt_where_rows_have_no_mean() -> None:
    config = BartConfig(
        vocab_size=8, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=8,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.copy_(torch.tensor([-4.0, -1.0, 1.0, 4.0] * 2))
    compare = script("weights").compare
    # Mean magnitude 2.5: TBT's range ends at 10/3 and 2.5, TWN's scale is 4; codes come from 5/3 and 1.75.
    ternary, binary = compare(model, "2-2-2"), compare(model, "1-1-1")
    assert ternary == pytest.approx({"equal_codes": 1.0, "scale_ratio": 1.2, "without_gradient": 0.5})
    assert binary == pytest.approx({"equal_codes": 1.0, "scale_ratio": 1.0, "without_gradient": 0.5})
    model.model.shared.weight.data += 2.0
    assert compare(model, "1-1-1")["equal_codes"] < 1.0


def test_training_levers_are_measured_one_process_each(tmp_path: Path) -> None:
    file = tmp_path / "levers.json"
    command = [str(FOLDER / "training_levers.py"), "--shape", "small", "--tokens", "16", "--batch-size", "2"]
    levers = ["off", "fp32", "bf16"]
    done = subprocess.run(
        [sys.executable, *command, "--levers", *levers, "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["lever"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == levers
    assert all(row["seconds"] > 0 and row["mib"] > 100 for row in rows.values())
    assert abs(rows["bf16"]["loss"] - rows["fp32"]["loss"]) < 0.1
