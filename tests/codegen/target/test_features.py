"""The features of CPUs by what machines with macOS and Windows report, as recorded on five of them."""

from __future__ import annotations

import ctypes
import mmap
import re
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from tbt_compile.codegen.target import cpuid, host, linux_features, macos_features, systems, windows_features
from tbt_compile.codegen.target.host import best_target, host_features
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.parse import parse_target, parse_targets
from tbt_compile.codegen.target.systems import MACOS, WINDOWS, this_machine
from tbt_compile.codegen.target.tiles import isa_class
from tbt_compile.codegen.target.windows_features import Registers
from tbt_compile.errors import TargetError

RECORDED = Path(__file__).with_name("recorded")
MACS = ("apple-m1", "apple-m2", "apple-m4")
PCS = {"core-i7-4710mq": "haswell", "ryzen-7-7800x3d": "znver4"}
_LINE = re.compile(r"CPUID (\w{8}): (\w{8})-(\w{8})-(\w{8})-(\w{8})(?: \[SL (\d+)\])?")


def sysctl(mac: str) -> str:
    return (RECORDED / f"sysctl-{mac}.txt").read_text()


def registers(pc: str) -> dict[tuple[int, int], Registers]:
    text = (RECORDED / f"cpuid-{pc}.txt").read_text()
    found = {}
    for leaf, *values, subleaf in _LINE.findall(text):
        eax, ebx, ecx, edx = (int(value, 16) for value in values)
        found[int(leaf, 16), int(subleaf or "0", 16)] = (eax, ebx, ecx, edx)
    return found


def saved(pc: str) -> int:
    """XCR0 under a system that saves all vector registers of the CPU."""
    return registers(pc)[0x0D, 0][0] & 0xE7


def features(pc: str) -> frozenset[str]:
    return windows_features.from_cpuid(registers(pc), saved(pc)) & host._USABLE["x86_64"]


@pytest.mark.parametrize("cpu", MACS)
def test_a_mac_runs_code_for_its_cpu_and_older_ones(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(stdout=sysctl(cpu))
    monkeypatch.setattr(host, "this_machine", lambda: ("aarch64", MACOS))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: report)
    host_features.cache_clear()
    try:
        has = host_features()
        runs = {name: host.is_runnable(parse_target(name)) for name in MACS}
        assert not host.is_runnable(parse_target(f"{cpu} linux"))
    finally:
        host_features.cache_clear()
    assert runs == {name: name <= cpu or cpu != "apple-m1" for name in MACS}
    found, expected = Isa.from_features(cpu, has), parse_target(cpu).isa
    assert (found.schedule, isa_class(found)) == (expected.schedule, isa_class(expected))
    assert has == parse_target(cpu).features & host._USABLE["aarch64"]


@pytest.mark.parametrize("pc", PCS)
def test_a_pc_has_the_instructions_of_its_cpu(pc: str) -> None:
    expected = parse_target(f"{PCS[pc]} windows")
    assert features(pc) == expected.features & host._USABLE["x86_64"]
    assert Isa.from_features(PCS[pc], features(pc)) == expected.isa


def test_registers_that_windows_does_not_save_are_not_used() -> None:
    zen4 = registers("ryzen-7-7800x3d")
    without_zmm = windows_features.from_cpuid(zen4, 0b111)
    assert Isa.from_features("", without_zmm).vector_bits == 256
    assert not any(name.startswith("avx512") for name in without_zmm)
    without_ymm = windows_features.from_cpuid(zen4, 0b011)
    assert Isa.from_features("", without_ymm).vector_bits == 128
    assert without_ymm.isdisjoint({"avx", "avx2", "fma", "f16c", "vpclmulqdq"}) and "popcnt" in without_ymm


@pytest.mark.parametrize(
    ("pc", "best"), [("core-i7-4710mq", "x86-64-v3"), ("ryzen-7-7800x3d", "skylake-avx512")]
)
def test_a_pc_chooses_among_the_builds_for_windows(
    pc: str, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "this_machine", lambda: ("x86_64", WINDOWS))
    monkeypatch.setattr(host, "host_features", lambda: features(pc))
    cpus = ("x86-64", "x86-64-v3", "skylake-avx512", "sapphirerapids")
    specs = parse_targets([*cpus, *(f"{cpu} windows" for cpu in cpus), "apple-m1"])
    chosen = specs[best_target(specs)]
    assert (chosen.mcpu, chosen.system) == (best, WINDOWS)
    others = [spec for spec in specs if spec.system is not WINDOWS]
    with pytest.raises(
        TargetError, match=r"compiled for x86-64 \(x86_64, Linux\), .* is x86_64, Windows; .*'host'"
    ):
        best_target(others)


def test_an_old_macos_is_refused() -> None:
    older = "".join(line for line in sysctl("apple-m1").splitlines(keepends=True) if "FEAT_" not in line)
    with pytest.raises(TargetError, match=r"no lines hw.optional.arm.FEAT_.*macOS 12 or later"):
        macos_features.from_sysctl(older)


def test_sysctl_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(TargetError, match=r"`/usr/sbin/sysctl hw.optional`.* cannot be run .*No such file"):
        macos_features.read()


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("Darwin", "arm64", ("aarch64", "macos")),
        ("Windows", "AMD64", ("x86_64", "windows")),
        ("Linux", "x86_64", ("x86_64", "linux")),
        ("Linux", "aarch64", ("aarch64", "linux")),
        ("Darwin", "x86_64", None),
        ("Windows", "ARM64", None),
        ("FreeBSD", "amd64", None),
    ],
)
def test_what_python_calls_this_machine(
    system: str, machine: str, expected: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems.platform, "system", lambda: system)
    monkeypatch.setattr(systems.platform, "machine", lambda: machine)
    if expected is None:
        with pytest.raises(TargetError, match=f"this machine is {machine} with {system}; .*macOS on aarch64"):
            this_machine()
        return
    arch, found = this_machine()
    assert (arch, found.name) == expected


@pytest.mark.skipif(this_machine()[0] != "x86_64", reason="the CPUID instruction is one of x86")
def test_the_machine_code_asks_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Linux's calling convention, from which each function is reached by moving its arguments."""
    moved = bytes.fromhex("4889f94189d089f2")  # mov rcx, rdi; mov r8d, edx; mov edx, esi
    code = moved + cpuid.CPUID + moved + cpuid.XGETBV
    with mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ask = cpuid.Instructions(start, start + len(moved) + len(cpuid.CPUID))
        monkeypatch.setattr(cpuid, "instructions", lambda: nullcontext(ask))
        found = windows_features.read()
    by_linux = linux_features.read("x86_64")
    listed = {
        name
        for table in (windows_features._ANY, windows_features._OF_YMM, windows_features._OF_ZMM)
        for names in table.values()
        for name in names
    }
    assert found == by_linux & listed
