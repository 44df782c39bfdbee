"""The Dockerfile: what it copies exists, and its entry point and health check work on a service that runs."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
RUN = [sys.executable, "-c", "from tbt_compile.cli import main; main()"]


def words(instruction: str) -> list[list[str]]:
    """The arguments of all instructions of a kind."""
    return [line.split()[1:] for line in TEXT.splitlines() if line.split()[:1] == [instruction]]


def command(instruction: str) -> list[str]:
    """The command in the JSON form of an instruction."""
    (found,) = re.findall(rf"^{instruction} .*?(\[.*\])$", TEXT, re.MULTILINE)
    return json.loads(found)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {name for arguments in words("COPY") for name in arguments[:-1]}
    mounted = set(re.findall(r"type=bind,source=([\w.]+)", TEXT))
    assert {"tbt_compile", "passes", "codegen", "constraints.txt"} <= copied | mounted
    for name in copied | mounted:
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in kept)


def test_it_does_not_run_as_root() -> None:
    (user,) = words("USER")
    assert f"useradd --system --uid {user[0]} " in TEXT


def test_the_entry_point_serves_and_the_health_check_tells(llama_folder: Path) -> None:
    entry, (port,) = command("ENTRYPOINT"), words("EXPOSE")[0]
    assert entry[:3] == ["tbt", "serve", "/model"]
    arguments = [*RUN, "serve", str(llama_folder), *entry[3:], "--port", "0", "--threads", "1"]
    check = command("HEALTHCHECK")
    assert check[0] == "python" and f":{port}/" in check[-1]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            taken = re.search(r"at http://0\.0\.0\.0:(\d+)", line)
            assert taken is not None, line
            check = [sys.executable, *(word.replace(f":{port}/", f":{taken[1]}/") for word in check[1:])]
            healthy = subprocess.run(check, check=False, capture_output=True, text=True)
        finally:
            process.terminate()  # as `docker stop`
        assert process.wait(60) in (0, -15, 143)
    assert healthy.returncode == 0, healthy.stderr
    assert subprocess.run(check, check=False, capture_output=True).returncode == 1
