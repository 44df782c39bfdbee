"""The path of a newcomer, timed: the commands of docs/installation.md in a fresh environment, one by one.

    python newcomer.py --json out.json

Installs with the Python that runs it, from a copy of the sources. The model of the reader is a random BART of
6 + 6 layers, 256 wide. Stops at the first command that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "installation.md"
JUNK = (".*", "__pycache__", "*.egg-info", "build", "dist", "site")
MODEL = """
from transformers import BartConfig, BartForConditionalGeneration
from tbt_compile.data.tokenization import train_bpe_tokenizer

tokenizer = train_bpe_tokenizer(["A steel maker rose three percent, and nobody knew why."], 300)
config = BartConfig(vocab_size=len(tokenizer), d_model=256, encoder_layers=6, decoder_layers=6,
                    encoder_attention_heads=4, decoder_attention_heads=4,
                    encoder_ffn_dim=1024, decoder_ffn_dim=1024,
                    max_position_embeddings=128)
BartForConditionalGeneration(config).save_pretrained("my-model")
tokenizer.save_pretrained("my-model")
"""


def commands(page: str, section: str) -> list[str]:
    """The commands of a section, one per line."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def run(command: str, folder: Path, environment: dict[str, str]) -> float:
    """Run a command; returns its seconds.

    Args:
        command: a line for the shell.
        folder: to run it in.
        environment: its variables.
    """
    print(f"$ {command}", flush=True)
    start = time.perf_counter()
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, check=False)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}")
    return time.perf_counter() - start


def walk(work: Path) -> dict[str, float]:
    """Take every step in an empty folder; returns seconds by command."""
    sources = shutil.copytree(ROOT, work / "sources", symlinks=True, ignore=shutil.ignore_patterns(*JUNK))
    installed, reader = work / "environment", work / "reader"
    reader.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{installed / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["TBT_CACHE"] = str(work / "cache")
    create = f"{sys.executable} -m venv {installed}"
    seconds = {"python -m venv": run(create, work, environment)}
    page = PAGE.read_text(encoding="utf-8")
    for command in commands(page, "Packages"):
        seconds[command] = run(command, sources, environment)
    (work / "model.py").write_text(MODEL)
    run(f"python {work / 'model.py'}", reader, environment)
    for command in commands(page, "First steps"):
        seconds[command] = run(command, reader, environment)
    return seconds


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        seconds = walk(Path(work))
    print(f"\n{'seconds':>8}")
    for command, value in seconds.items():
        print(f"{value:8.1f} {command}")
    print(f"{sum(seconds.values()):8.1f} together")
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
