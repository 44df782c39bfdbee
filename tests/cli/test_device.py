"""An environment with what a device needs and nothing else: `make device` installs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import tbt_compile
from tbt_compile.cli.models import open_model

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-device" / "bin"
REQUIRED = "TBT_REQUIRE_DEVICE"
MOST_MIB = 600
IN_PYTHON = """
import sys
import tbt_compile
from tokenizers import Tokenizer

folder, text = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
model = tbt_compile.load(folder)
tokens = model.generate([tokenizer.encode(text).ids], max_new_tokens=8)
print(tokenizer.decode(tokens[0].tolist()))
assert not {"torch", "transformers", "tvm"} & set(sys.modules)
"""


@pytest.fixture(scope="module", autouse=True)
def _there() -> None:
    if not BIN.is_dir():
        reason = "there is no environment without PyTorch: `make device` builds it"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{reason}, and {REQUIRED}=1 asks for it")
        pytest.skip(reason)


@pytest.fixture(scope="module")
def packed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen model."""
    frozen = tbt_compile.freeze(open_model(trained / "student-2-2-2"))
    return frozen.save(tmp_path_factory.mktemp("packed") / "model")


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program of that environment, away from the source tree."""
    command = [str(BIN / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=BIN)


def test_it_is_installed_and_small(tmp_path: Path) -> None:
    script = ROOT / "examples" / "benchmarks" / "device.py"
    done = run("python", script, "--repeats", 1, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    packages = figures["bytes"]
    assert {"tbt-compile", "apache-tvm", "numpy", "tokenizers"} <= packages.keys()
    assert not {"torch", "transformers", "safetensors", "ziglang"} & packages.keys()
    assert sum(packages.values()) < MOST_MIB * 2**20
    assert figures["seconds"]["runtime"] > 0


def test_it_generates_the_same_text(tbt, compiled: Path) -> None:
    texts = ["one two three", "seven eight"]
    expected = tbt("run", compiled, "--max-new-tokens", 8, *texts).out
    done = run("tbt", "run", compiled, "--max-new-tokens", 8, *texts)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
    done = run("python", "-c", IN_PYTHON, compiled, texts[0])
    assert (done.returncode, done.stdout.strip()) == (0, expected.splitlines()[0].strip()), done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["python", "-c", "import tbt_compile; tbt_compile.prepare"], "convert"),
        (["python", "-c", "from tbt_compile import lower"], "convert"),
        (["python", "-c", "import tbt_compile, sys; tbt_compile.load(sys.argv[1])", "FOLDER"], "convert"),
        (["tbt", "lower", "FOLDER", "--output", "nowhere"], "convert"),
        (["tbt", "train", "--data", "x", "--teacher", "x", "--output", "x"], "train"),
    ],
)
def test_what_it_cannot_do_says_what_to_install(packed: Path, command: list[str], extra: str) -> None:
    done = run(*(str(packed) if word == "FOLDER" else word for word in command))
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert " is not installed: " in message
    assert f"tbt-compile[{extra}]" in message
