"""Targets: what is understood, what is inferred, what is refused and with which words."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tvm_ffi import get_global_func

from tbt_compile.codegen.target import host, linux_features, llvm_cpus
from tbt_compile.codegen.target.host import check_runnable, host_target, missing_features
from tbt_compile.codegen.target.parse import parse_target, parse_targets
from tbt_compile.codegen.target.spec import ALIASES, TargetSpec, list_targets
from tbt_compile.codegen.target.systems import LINUX, SYSTEMS
from tbt_compile.errors import TargetError

OTHER_ARCH_CPU = "haswell" if platform.machine() == "aarch64" else "cortex-a72"


@pytest.mark.parametrize(
    ("cpu", "arch", "bits", "feature"),
    [
        ("znver5", "x86_64", 512, "avx512vpopcntdq"),
        ("icelake-server", "x86_64", 512, "avx512vpopcntdq"),
        ("skylake-avx512", "x86_64", 512, "avx512bw"),
        ("alderlake", "x86_64", 256, "avxvnni"),
        ("haswell", "x86_64", 256, "avx2"),
        ("x86-64", "x86_64", 128, "sse2"),
        ("cortex-a72", "aarch64", 128, "neon"),
        ("raspberrypi4", "aarch64", 128, "neon"),
        ("neoverse-n1", "aarch64", 128, "dotprod"),
    ],
)
def test_a_cpu_name_gives_its_architecture_and_instructions(
    cpu: str, arch: str, bits: int, feature: str
) -> None:
    spec = parse_target(cpu)
    assert (spec.arch, spec.isa.vector_bits) == (arch, bits)
    assert feature in spec.features
    assert spec.triple == f"{arch}-unknown-linux-gnu"


def test_every_spelling_of_one_cpu_gives_the_same_target() -> None:
    spec = parse_target("cortex-a72")
    spellings = (
        "llvm -mcpu=cortex-a72",
        "llvm --mcpu=cortex-a72 -mtriple=aarch64-linux-gnu",
        "llvm -mtriple=arm64-unknown-linux-gnu -mcpu=cortex-a72",
        {"kind": "llvm", "mcpu": "cortex-a72"},
        {"mcpu": "cortex-a72", "mtriple": "aarch64-unknown-linux-gnu"},
        "raspberrypi4",
        spec,
        str(spec),
        json.loads(json.dumps(spec.as_dict())),
    )
    assert all(parse_target(spelling) == spec for spelling in spellings)


@pytest.mark.parametrize(
    ("spellings", "triple", "system"),
    [
        (
            ["apple-m1", "apple-m1 macos", "llvm -mcpu=apple-m1 -mtriple=aarch64-apple-darwin23.4.0"],
            "arm64-apple-macos",
            "macOS",
        ),
        (["apple-m1 linux"], "aarch64-unknown-linux-gnu", "Linux"),
        (
            ["haswell windows", "haswell Windows", "llvm -mcpu=haswell -mtriple=x86_64-w64-windows-gnu"],
            "x86_64-pc-windows-msvc",
            "Windows",
        ),
        (["haswell", "haswell linux"], "x86_64-unknown-linux-gnu", "Linux"),
    ],
)
def test_a_system_follows_the_cpu(spellings: list[str], triple: str, system: str) -> None:
    """Macs have macOS by default, every other CPU Linux."""
    for spelling in spellings:
        spec = parse_target(spelling)
        assert (spec.triple, spec.system.title) == (triple, system)
        assert parse_target(spec.as_dict()) == parse_target(str(spec)) == spec


def test_a_cpu_may_come_once_for_every_system() -> None:
    specs = parse_targets(["haswell", "haswell windows"])
    assert [spec.label for spec in specs] == ["haswell (x86_64, Linux)", "haswell (x86_64, Windows)"]
    with pytest.raises(TargetError, match="haswell comes twice"):
        parse_targets(["haswell", "haswell windows", "haswell linux"])


@pytest.mark.parametrize("cpu", ["apple-m1", "haswell", "x86-64-v3", "znver4"])
def test_a_cpu_has_the_same_features_under_every_system(cpu: str) -> None:
    arch = parse_target(cpu).arch
    triples = [system.triples[arch] for system in SYSTEMS.values() if arch in system.triples]
    assert len({llvm_cpus.features(cpu, triple) for triple in triples}) == 1 < len(triples)


@pytest.mark.parametrize("cpu", ["apple-m1", "apple-m2", "apple-m3", "apple-m4"])
def test_macs_have_dot_products_and_from_the_second_on_matrix_products(cpu: str) -> None:
    isa = parse_target(cpu).isa
    assert (isa.vector_bits, isa.dot, isa.has("sve")) == (128, "dotprod", False)
    assert isa.has("i8mm") == (cpu != "apple-m1")


def test_features_can_be_switched() -> None:
    with_dot = parse_target("llvm -mcpu=cortex-a72 -mattr=+dotprod")
    assert "dotprod" in with_dot.features - parse_target("cortex-a72").features
    without = parse_target({"kind": "llvm", "mcpu": "znver4", "mattr": ["-avx512f"]})
    assert (without.isa.vector_bits, without.isa.has_popcount) == (256, False)
    for spec in (with_dot, without):
        assert parse_target(spec.as_dict()) == parse_target(str(spec)) == spec


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cortex-a27", ["unknown CPU 'cortex-a27'", "cortex-a72"]),
        ("llvm -mcpu=cortex-a27", ["unknown CPU 'cortex-a27'", "cortex-a72"]),
        ("llvm -mcpu=znver9", ["znver5"]),
        ("graviton5", ["graviton4"]),
        ("qqqqqq", ["unknown CPU 'qqqqqq'", "tbt targets"]),
        ("pentium4", ["unknown CPU"]),
        ("llvm -mcpu=haswell -mtriple=aarch64-linux-gnu", ["unknown CPU 'haswell' for aarch64"]),
        ("generic", ["several architectures", "-mtriple=aarch64-unknown-linux-gnu"]),
        ("llvm", ["names no CPU"]),
        ({"kind": "llvm"}, ["names no CPU"]),
        ("llvm -mcpu", ["-name=value"]),
        ("llvm -cpu=znver4", ["unknown option 'cpu'", "mcpu"]),
        ("llvm -mcpu=cortex-a72 -mattr=+dotprd", ["unknown aarch64 feature 'dotprd'", "dotprod"]),
        ("llvm -mcpu=cortex-a72 -mattr=dotprod", ["'+'"]),
        ("llvm -mcpu=znver3 -mtriple=x86_64-unknown-freebsd", ["not supported", "x86_64-unknown-linux-gnu"]),
        ("llvm -mcpu=znver3 -mtriple=x86_64-apple-macos", ["not supported", "arm64-apple-macos"]),
        ("haswell macos", ["'haswell' is x86_64", "under macOS on aarch64 only", "leave the system out"]),
        ("cortex-a72 windows", ["'cortex-a72' is aarch64", "under Windows on x86_64 only", "another CPU"]),
        ("cortex-a72 macos", ["no Mac has the CPU 'cortex-a72'", "apple-m1"]),
        ("haswell window", ["the system 'window'", "linux, macos, windows", "mean windows?"]),
        ("host windows", ["cannot be read", "'haswell windows'"]),
        ("llvm -mcpu=znver3 -mtriple=riscv64-linux-gnu", ["not supported"]),
        ("cuda -arch=sm_90", ["only the kind 'llvm'"]),
        ({"kind": "cuda", "mcpu": "znver4"}, ["only the kind 'llvm'"]),
        ("", ["neither text nor a dict"]),
        (7, ["neither text nor a dict"]),
    ],
)
def test_what_cannot_be_built_for_is_refused_with_a_way_out(target: object, words: list[str]) -> None:
    with pytest.raises(TargetError) as error:
        parse_target(target)  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)


def test_the_list_holds_every_alias_and_only_64_bit_cpus() -> None:
    specs = {(spec.arch, spec.mcpu): spec for spec in list_targets()}
    assert len(specs) > 100
    names = {name for _, name in specs}
    assert set(ALIASES.values()) <= names
    assert {"i386", "pentium4"}.isdisjoint(names)
    assert all(spec.features for spec in specs.values())


def test_host_is_a_real_cpu_of_this_machine_and_can_run_here() -> None:
    spec = parse_target("host")
    assert spec.arch == {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())
    assert missing_features(spec) == []
    check_runnable(spec)
    assert parse_target(spec.as_dict()) == spec


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the CPUID instruction is one of x86")
def test_the_kernel_and_llvm_agree_on_the_features_of_this_machine() -> None:
    seen = get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    by_cpuid = {str(name) for name, on in seen.items() if bool(on)}
    assert host.host_features() <= by_cpuid
    # A kernel may leave out what came after it; these it has all known for years.
    old = ("sse", "avx2", "avx512", "bmi", "fma")
    known = {name for name in host._USABLE["x86_64"] if name.startswith(old)}
    assert by_cpuid & (known - {"avx512fp16", "avx512vp2intersect"}) <= host.host_features()


def test_a_kernel_that_does_not_tell_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor : 0\n")
    with pytest.raises(TargetError, match="/proc/cpuinfo has no flags line: mount /proc"):
        linux_features.read("x86_64")


def test_a_recorded_target_is_the_same_target() -> None:
    for spec in (parse_target("host"), parse_target("llvm -mcpu=cortex-a72 -mattr=+dotprod")):
        assert TargetSpec.recorded(json.loads(json.dumps(spec.as_dict())), sorted(spec.features)) == spec


def test_another_architecture_cannot_run_here() -> None:
    with pytest.raises(TargetError, match=r"this machine is .*'host'"):
        check_runnable(parse_target(OTHER_ARCH_CPU))


@pytest.fixture
def old_x86(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend to be an x86 virtual machine that hides everything that AVX-512 brought."""
    shown = parse_target("haswell").features - {"fma"}
    monkeypatch.setattr(host, "this_machine", lambda: ("x86_64", LINUX))
    monkeypatch.setattr(host, "host_features", lambda: frozenset(shown) & host._USABLE["x86_64"])
    monkeypatch.setattr(llvm_cpus, "system_name", lambda: "znver4")
    host_target.cache_clear()
    yield
    host_target.cache_clear()


@pytest.mark.usefixtures("old_x86")
def test_missing_features_are_named() -> None:
    with pytest.raises(TargetError) as error:
        check_runnable(parse_target("znver4"))
    assert "avx512vpopcntdq" in str(error.value)
    assert "'host'" in str(error.value)
    assert "mwaitx" not in str(error.value)


@pytest.mark.parametrize(
    ("cpu", "missing"),
    [
        ("cortex-a53", None),
        ("cortex-a76", "dotprod, fullfp16, lse, rcpc, rdm"),
        ("apple-m2 linux", "sha3"),
        ("neoverse-v1", "i8mm, .*sve"),
        ("ampere1b", "cssc, dotprod"),
    ],
)
def test_a_raspberry_pi_4_runs_what_has_no_newer_instruction(
    monkeypatch: pytest.MonkeyPatch, cpu: str, missing: str | None
) -> None:
    """Without AES and SHA2, which LLVM believes the chip to have; they are never used."""
    monkeypatch.setattr(host, "this_machine", lambda: ("aarch64", LINUX))
    monkeypatch.setattr(host, "host_features", lambda: frozenset({"fp-armv8", "neon", "crc"}))
    monkeypatch.setattr(host, "host_target", lambda: parse_target("cortex-a72"))
    if missing is None:
        check_runnable(parse_target(cpu))
        return
    named = cpu.split()[0]
    with pytest.raises(TargetError, match=rf"compiled for {named}, .*cortex-a72.* lacks .*{missing}.*'host'"):
        check_runnable(parse_target(cpu))


@pytest.mark.usefixtures("old_x86")
def test_host_leaves_out_what_a_virtual_machine_hides() -> None:
    spec = host_target()
    assert spec.mcpu == "znver4"
    assert "-avx512f" in spec.mattr
    assert "fma" not in spec.features
    assert spec.isa.vector_bits == 256
    check_runnable(spec)


def test_a_spec_is_a_value() -> None:
    assert len({parse_target("znver4"), parse_target("zen4")}) == 1
    assert isinstance(parse_target("znver4"), TargetSpec)


@pytest.mark.parametrize("targets", [None, 5, [None], [[]]])
def test_what_is_no_target_is_refused(targets: Any) -> None:
    with pytest.raises(TargetError, match="is neither text nor a dict"):
        parse_targets(targets)
