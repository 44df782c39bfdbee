"""The instructions of a linked AArch64 library, as LLVM's disassembler for one CPU reads them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from arm.environment import Environment

UNKNOWN = "<unknown>"
"""What the disassembler calls a word that is no instruction of the CPU."""
DOT_PRODUCTS = ("sdot", "udot")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(\S+)", re.MULTILINE)


def instructions(environment: Environment, library: Path, cpu: str) -> Counter[str]:
    """How many instructions of each name the code of a library has, read as code for `cpu` (LLVM's name).

    AES and SHA are left out of what the CPU has: they are on no Raspberry Pi before the fifth.
    """
    command = [*environment.tool("llvm-objdump"), "-d", "--no-show-raw-insn", f"--mcpu={cpu}"]
    command += ["--mattr=-crypto,-aes,-sha2", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Counter(_INSTRUCTION.findall(done.stdout))
