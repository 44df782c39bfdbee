"""The path of a newcomer, timed: the commands of a page in a fresh environment, one by one.

    python newcomer.py --json out.json
    python newcomer.py --page serving --json out.json

Installs with the Python that runs it, from a copy of the sources. The model of the reader is a random BART of
6 + 6 layers, 256 wide; on the page of serving, a random Llama of 4 layers. Stops at the first command that
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "installation.md"
SERVING, SERVING_SECTION, PORT = ROOT / "docs" / "serving.md", "From nothing to an answer", 8000
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


LLAMA = """
from transformers import LlamaConfig, LlamaForCausalLM
from tbt_compile.data.tokenization import train_bpe_tokenizer

tokenizer = train_bpe_tokenizer(["Once upon a time a steel maker said hello, and nobody knew why."], 300)
tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
                     num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
                     bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                     pad_token_id=tokenizer.pad_token_id)
LlamaForCausalLM(config).save_pretrained("my-llama")
tokenizer.save_pretrained("my-llama")
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


def walk(work: Path, of_serving: bool = False) -> dict[str, float]:
    """Take every step in an empty folder; returns seconds by command.

    Args:
        work: the folder.
        of_serving: whether they are those of docs/serving.md.
    """
    sources = shutil.copytree(ROOT, work / "sources", symlinks=True, ignore=shutil.ignore_patterns(*JUNK))
    installed, reader = work / "environment", work / "reader"
    reader.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{installed / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["TBT_CACHE"] = str(work / "cache")
    create = f"{sys.executable} -m venv {installed}"
    seconds = {"python -m venv": run(create, work, environment)}
    page = (SERVING if of_serving else PAGE).read_text(encoding="utf-8")
    section = SERVING_SECTION if of_serving else "Packages"
    for command in commands(page, section):
        if command.startswith("pip "):
            seconds[command] = run(command, sources, environment)
    (work / "model.py").write_text(LLAMA if of_serving else MODEL)
    run(f"python {work / 'model.py'}", reader, environment)
    if of_serving:
        return seconds | serve(reader, environment)
    for command in commands(page, "First steps"):
        seconds[command] = run(command, reader, environment)
    return seconds


def serve(reader: Path, environment: dict[str, str], port: int = PORT) -> dict[str, float]:
    """Take the steps of docs/serving.md after the installation, in a folder with the model.

    Args:
        reader: the folder.
        environment: variables of the commands.
        port: where the service listens, in place of that of the page.

    Returns:
        Seconds by command; those of the service are the ones until it answers.
    """
    page, seconds = SERVING.read_text(encoding="utf-8"), {}
    section = page.split(f"\n## {SERVING_SECTION}\n")[1].split("\n## ")[0]
    (client,) = re.findall(r"^```text\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (reader / "client.py").write_text(client.replace(str(PORT), str(port)))
    lines = [line for line in commands(page, SERVING_SECTION) if not line.startswith("pip ")]
    service = None
    try:
        for command in [*lines, "python client.py"]:
            here = command.replace(str(PORT), str(port))
            if command.startswith("tbt serve "):
                print(f"$ {here} &", flush=True)
                start = time.perf_counter()
                service = subprocess.Popen(shlex.split(here), cwd=reader, env=environment)
                while not _answers(f"http://127.0.0.1:{port}/health"):
                    if service.poll() is not None:
                        sys.exit(f"exit code {service.returncode}")
                    time.sleep(0.05)
                seconds[command] = time.perf_counter() - start
            else:
                seconds[command] = run(here, reader, environment)
    finally:
        if service is not None:
            service.send_signal(signal.SIGINT)
            service.wait(60)
    return seconds


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", choices=("installation", "serving"), default="installation")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        seconds = walk(Path(work), arguments.page == "serving")
    print(f"\n{'seconds':>8}")
    for command, value in seconds.items():
        print(f"{value:8.1f} {command}")
    print(f"{sum(seconds.values()):8.1f} together")
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
