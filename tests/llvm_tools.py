"""LLVM's tools that look at libraries: the system's, or those that come with the emulated AArch64 machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from arm.environment import COMMAND, find

_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(\S+)", re.MULTILINE)
UNKNOWN = "<unknown>"
"""What the disassembler calls a word that is no instruction of the CPU."""


def llvm(name: str, *arguments: str | Path) -> str:
    """What a tool prints; skips the test where there is none, or fails where there has to be one."""
    environment = find()
    if shutil.which(name) is not None:
        command = [name]
    elif environment is not None and environment.tools is not None:
        command = environment.tool(name)
    else:
        reason = f"there is no {name}: install LLVM, or let `{COMMAND}` download it"
        if os.environ.get("TBT_REQUIRE_ARM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


def disassembly(library: Path, *options: str) -> str:
    """The code of a library as text."""
    return llvm("llvm-objdump", "-d", "--no-show-raw-insn", *options, library)


def instructions(code: str) -> Counter[str]:
    """How many instructions of each name a disassembly has."""
    return Counter(_INSTRUCTION.findall(code))
