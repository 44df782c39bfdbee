"""Kernels of a library: built once per spec, under names that tell specs apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tbt_compile.codegen.importer.kernels import Kernels, kernel_name
from tbt_compile.codegen.kernels.attention.attention import FusedSpec
from tbt_compile.codegen.kernels.attention.spec import AttentionSpec
from tbt_compile.codegen.kernels.linear.float32 import FloatLinearSpec, linear_float
from tbt_compile.codegen.kernels.linear.linear import LinearSpec
from tbt_compile.codegen.target.host import host_target
from tbt_compile.encoding import Encoding

ISA = host_target().isa


def test_a_kernel_is_built_once_per_spec() -> None:
    kernels, built = Kernels(ISA), []

    def build(spec: FloatLinearSpec) -> Any:
        built.append(spec)
        return linear_float(spec)

    specs = [FloatLinearSpec(8, columns, False, ISA) for columns in (4, 4, 5)]
    names = [kernels.get(spec, build)[0] for spec in specs]
    assert names == ["build_8_4_0_float_1", "build_8_4_0_float_1", "build_8_5_0_float_1"]
    assert built == [specs[0], specs[2]]
    assert list(kernels.built) == ["build_8_4_0_float_1", "build_8_5_0_float_1"]


def test_names_list_the_fields_of_a_spec() -> None:
    spec = LinearSpec(768, 64, Encoding.TERNARY, Encoding.BINARY, True, False, ISA, "")
    assert kernel_name("linear", spec) == "linear_768_64_ternary_binary_1_0"
    assert kernel_name("linear", replace(spec, function="gelu")) == "linear_768_64_ternary_binary_1_0_gelu"
    product = AttentionSpec(64, Encoding.TERNARY, Encoding.BINARY, True, ISA, 2)
    fused = FusedSpec(product, replace(product, groups=3), 1e-5, True, False)
    assert kernel_name("attention", fused) == (
        "attention_64_ternary_binary_1_2_64_ternary_binary_1_3_1em05_1_0"
    )
