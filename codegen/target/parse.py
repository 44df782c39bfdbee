"""Parse the targets that users write: "host", a CPU with or without a system, "llvm -mcpu=..." or a dict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tbt_compile.codegen.target.host import host_target
from tbt_compile.codegen.target.spec import TargetSpec, target_of
from tbt_compile.codegen.target.systems import SYSTEMS
from tbt_compile.errors import TargetError, did_you_mean

_OPTION = re.compile(r"--?([a-z][a-z-]*)=(\S+)")

Target: TypeAlias = "str | Mapping[str, Any] | TargetSpec"
"""The forms that `parse_target` accepts."""


def parse_target(target: Target = "host") -> TargetSpec:
    """Parse a target: "host", a CPU name, "llvm -mcpu=...", or a dict with the keys of `TargetSpec.as_dict`.

    The name of a system may follow that of a CPU: linux, macos or windows. Without one it is macOS for the
    CPUs of Macs (`apple-m1`), Linux for all others.

    Raises:
        TargetError: the CPU, the system, a feature or an option is unknown; near matches are named.

    >>> str(parse_target("cortex-a72"))
    'llvm -mcpu=cortex-a72 -mtriple=aarch64-unknown-linux-gnu'
    >>> str(parse_target("haswell windows"))
    'llvm -mcpu=haswell -mtriple=x86_64-pc-windows-msvc'
    >>> parse_target("llvm -mcpu=znver4").isa.vector_bits
    512
    """
    if isinstance(target, TargetSpec):
        return target
    if isinstance(target, Mapping):
        return target_of(dict(target), str(dict(target)))
    if not isinstance(target, str) or not target.strip():
        raise TargetError(
            f"target {target!r} is neither text nor a dict; write 'host', a CPU name such as 'cortex-a72', "
            "one with a system as 'haswell windows', or 'llvm -mcpu=cortex-a72'"
        )
    words = target.split()
    if words == ["host"]:
        return host_target()
    if words[0] == "llvm":
        return target_of(_read_options(words[1:], target), target)
    if len(words) == 1:
        return target_of({"mcpu": words[0]}, target)
    cpu, *rest = words
    if len(rest) == 1 and not rest[0].startswith("-") and cpu != "host":
        system = SYSTEMS.get(rest[0].lower())
        if system is None:
            raise TargetError(
                f"target {target!r} names the system {rest[0]!r}; known are {', '.join(SYSTEMS)}."
                f"{did_you_mean(rest[0], SYSTEMS)}"
            )
        return target_of({"mcpu": cpu}, target, system)
    raise TargetError(
        f"target {target!r} cannot be read: only the kind 'llvm' is supported, as in "
        "'llvm -mcpu=cortex-a72', or a CPU with a system, as in 'haswell windows'"
    )


def parse_targets(targets: Target | Sequence[Target]) -> list[TargetSpec]:
    """Parse one target, or several for different CPUs; see `parse_target`.

    Raises:
        TargetError: a target cannot be parsed, there is none, or two name the same CPU and system.

    >>> [spec.mcpu for spec in parse_targets(["raspberrypi4", "raspberrypi5"])]
    ['cortex-a72', 'cortex-a76']
    """
    if isinstance(targets, (str, Mapping, TargetSpec)) or not isinstance(targets, Iterable):
        return [parse_target(targets)]
    specs = [parse_target(target) for target in targets]
    names = [(spec.mcpu, spec.system) for spec in specs]
    twice = [spec.mcpu for spec, name in zip(specs, names, strict=True) if names.count(name) > 1]
    if not specs or twice:
        what = f"the CPU {twice[0]} comes twice" if twice else "there is none"
        raise TargetError(f"targets {targets!r}: {what}; name every CPU once, as in ['cortex-a72', 'host']")
    return specs


def _read_options(words: list[str], target: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        match = _OPTION.fullmatch(word)
        if match is None:
            raise TargetError(
                f"{word!r} in target {target!r} is not of the form -name=value, as in -mcpu=cortex-a72"
            )
        options[match[1]] = match[2]
    return options
