"""Debian packages and wheels for another machine, downloaded and unpacked into folders."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


class SetupError(Exception):
    """The emulated machine cannot be built; the message says what was expected."""


def unpack(apt: Path, architecture: str, packages: tuple[str, ...], into: Path) -> None:
    """Download Debian packages and all that they depend on, and unpack them into a folder."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SetupError(f"{tool} was not found: expected Debian, or a system made from it")
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()  # of a system with nothing installed, so that every dependency is downloaded
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::State": apt,
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
    }
    command = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    # A source that has nothing for this architecture, or is out of reach, need not be one that is needed.
    update = subprocess.run([*command, "update"], capture_output=True, text=True, check=False)
    what = f"apt with this system's package sources (is there a network? do they carry {architecture}?)"
    try:
        run([*command, "install", "--no-install-recommends", "--download-only", *packages], what)
    except SetupError as error:
        raise SetupError(f"{error}\n{update.stderr.strip()}".strip()) from None
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        run(["dpkg-deb", "-x", str(package), str(into)], "dpkg-deb")
    shutil.rmtree(apt)


def run(command: list[str], what: str, **variables: str) -> None:
    """Run a command; what it printed is only seen when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C", **variables}
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SetupError(f"{what} failed with exit code {done.returncode}: " + "\n".join(lines[-8:]))
