"""The way from a model to an answer, every command as docs/serving.md has it."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEWCOMER = ROOT / "examples" / "benchmarks" / "newcomer.py"
TBT = f"#!{sys.executable}\nfrom tbt_compile.cli import main\nmain()\n"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_every_command_works(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai", reason="the openai package is not installed")
    newcomer = runpy.run_path(str(NEWCOMER))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("tbt", TBT), ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    smaller = newcomer["LLAMA"].replace("256", "32").replace("1024", "64").replace("layers=4", "layers=1")
    subprocess.run([sys.executable, "-c", smaller], cwd=tmp_path, env=environment, check=True)
    seconds = newcomer["serve"](tmp_path, environment, free_port())
    printed = capfd.readouterr().out
    assert '"status":"ok"' in printed
    assert '"object":"text_completion"' in printed
    assert printed.count("data: ") >= 2 and "data: [DONE]" in printed
    assert [command.split()[0] for command in seconds] == ["tbt", "tbt", "curl", "curl", "curl", "python"]


def test_the_extras_exist() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    (named,) = re.findall(r"pip install .*'\.\[([\w,-]+)\]'", page)
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    assert all(f"\n{extra} = [" in extras for extra in named.split(","))
