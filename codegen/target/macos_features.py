"""The features of a Mac's CPU as `sysctl hw.optional` reports them, under LLVM's names."""

from __future__ import annotations

import subprocess

from tbt_compile.errors import TargetError

_COMMAND = ("/usr/sbin/sysctl", "hw.optional")
_ARM = "hw.optional.arm.FEAT_"
# Arm's names of features, which macOS 12 and later report one by one.
_NAMES = {"CRC32": "crc", "LSE": "lse", "FP16": "fullfp16", "RDM": "rdm", "JSCVT": "jsconv"}
_NAMES |= {"FCMA": "complxnum", "LRCPC": "rcpc", "LRCPC2": "rcpc-immo", "SHA3": "sha3", "DotProd": "dotprod"}
_NAMES |= {"FHM": "fp16fml", "I8MM": "i8mm", "BF16": "bf16", "CSSC": "cssc"}
_OLDER = {"hw.optional.armv8_crc32": "crc"}  # which has no other name before macOS 15
_ALWAYS = frozenset({"fp-armv8", "neon"})
"""What every program for a Mac with an Apple CPU may use."""


def read() -> frozenset[str]:
    """The features of this machine's CPU.

    Raises:
        TargetError: `sysctl` cannot be run, or reports no features.
    """
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise TargetError(
            f"`{' '.join(_COMMAND)}`, which lists the features of this CPU, cannot be run ({error}): "
            "run it in a terminal to see why"
        ) from error
    return from_sysctl(done.stdout)


def from_sysctl(text: str) -> frozenset[str]:
    """The features by the output of `sysctl hw.optional`, lines such as "hw.optional.arm.FEAT_I8MM: 1".

    Raises:
        TargetError: there are none of the lines that macOS 12 brought.
    """
    values = dict(line.partition(": ")[::2] for line in text.splitlines())
    if not any(name.startswith(_ARM) for name in values):
        raise TargetError(
            f"`{' '.join(_COMMAND)}` has no lines {_ARM}...: compiled models run on macOS 12 or later"
        )
    known = {**{f"{_ARM}{arm}": llvm for arm, llvm in _NAMES.items()}, **_OLDER}
    return _ALWAYS | {feature for name, feature in known.items() if values.get(name) == "1"}
