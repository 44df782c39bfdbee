"""Features of CPUs by name, and what the schedules make of them."""

from __future__ import annotations

import pytest
from kernel_tools import isa_of

from tbt_compile.codegen.target.isa import FEATURES, PORTABLE, VECTOR_SETS, Isa
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.spec import list_targets
from tbt_compile.codegen.target.tiles import PACKAGED, isa_class, read

CPUS = {
    "x86-64": ("", "128 bits, 16 registers, none"),
    "haswell": ("avx2 ssse3", "256 bits, 16 registers, maddubs"),
    "alderlake": ("avx2 avxvnni ssse3", "256 bits, 16 registers, vnni"),
    "skylake-avx512": ("avx2 avx512bw ssse3", "512 bits, 32 registers, maddubs"),
    "cascadelake": ("avx2 avx512bw ssse3 vnni", "512 bits, 32 registers, vnni"),
    "znver4": ("avx2 avx512bw ssse3 vnni vpopcntdq", "512 bits, 32 registers, vnni, popcount"),
    "cortex-a72": ("neon", "128 bits, 32 registers, none"),
    "neoverse-n1": ("dotprod neon", "128 bits, 32 registers, dotprod"),
    "neoverse-v1": ("dotprod i8mm neon sve", "128 bits, 32 registers, dotprod, i8mm"),
}


@pytest.mark.parametrize("cpu", CPUS)
def test_features_and_the_class_of_a_cpu(cpu: str) -> None:
    features, key = CPUS[cpu]
    isa = isa_of(cpu)
    assert " ".join(sorted(isa.features)) == features
    assert isa_class(isa) == key
    assert all(isa.has(feature) == (feature in features.split()) for feature in FEATURES)


def test_the_packaged_tiles_are_of_classes_that_cpus_have() -> None:
    assert set(read(PACKAGED)) <= {isa_class(spec.isa) for spec in list_targets()}


def test_extensions_count_only_with_the_vectors_they_extend() -> None:
    """Knights Mill counts bits in 512-bit vectors, and has no byte operations on those."""
    knights_mill = isa_of("knm")
    assert "avx512vpopcntdq" in parse_target("knm").features
    assert (knights_mill.vector_bits, knights_mill.has_popcount) == (256, False)
    without = parse_target("llvm -mcpu=sapphirerapids -mattr=-avx512vnni").isa
    assert (without.vector_bits, without.dot) == (512, "maddubs")


def test_neon_is_a_feature_not_a_size() -> None:
    assert isa_of("cortex-a72").has("neon")
    for name in ("x86-64", "znver4"):
        assert not isa_of(name).has("neon")
    plain = Isa.from_features("a CPU", ())
    assert plain.vectors is PORTABLE
    assert (plain.vector_bits, plain.registers, plain.dot) == (128, 16, "none")


def test_features_that_no_kernel_uses_change_no_schedule() -> None:
    newer, older = isa_of("neoverse-v1"), isa_of("apple-m2")
    assert newer != older
    assert newer.schedule == older.schedule
    assert isa_of("haswell").schedule == isa_of("znver3").schedule
    schedules = [isa_of(cpu).schedule for cpu in ("x86-64", "haswell", "alderlake", "znver4", "cortex-a72")]
    assert len(set(schedules)) == len(schedules)


def test_every_cpu_has_the_vectors_of_its_architecture() -> None:
    for spec in list_targets():
        assert spec.isa.vectors.arch in (spec.arch, "any")
    assert {spec.isa.vectors for spec in list_targets()} == set(VECTOR_SETS)


def test_an_unknown_feature_is_an_error_not_absent() -> None:
    with pytest.raises(KeyError, match="unknown feature 'avx512vnni'"):
        isa_of("znver4").has("avx512vnni")
