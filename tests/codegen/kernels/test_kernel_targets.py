"""Kernels for other CPUs: they compile, quickly, to the instructions those CPUs have."""

from __future__ import annotations

import re
import time

import pytest
from kernel_tools import isa_of, source

from tbt_compile.codegen.kernels.attention.attention import AttentionSpec, pv, qk
from tbt_compile.codegen.kernels.attention.pack_cache import PackSpec, append_values
from tbt_compile.codegen.kernels.float_ops.activations import ActivationSpec, activation
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.tvm_api import PrimFunc
from tbt_compile.encoding import Encoding

SECONDS = 20.0  # of processor time: machines that run tests are shared


def kernels(cpu: str) -> dict[str, PrimFunc]:
    isa = isa_of(cpu)
    ternary = AttentionSpec(64, Encoding.TERNARY, Encoding.TERNARY, True, isa)
    return {
        "linear": linear(LinearSpec(50, 100, Encoding.TERNARY, Encoding.TERNARY, True, True, isa)),
        "linear_int8": linear(LinearSpec(50, 100, Encoding.INT8, Encoding.BINARY, True, True, isa)),
        "qk": qk(ternary),
        "pv": pv(ternary),
        "append_values": append_values(PackSpec(64, Encoding.TERNARY, True, isa)),
        "gelu": activation(ActivationSpec("gelu", 100, isa)),
    }


@pytest.mark.parametrize(
    ("cpu", "counts", "multiplies", "foreign"),
    [
        ("znver5", r"vpopcntq\s+%zmm", r"vpdpbusd\s+.*%zmm", r"\bcnt\b"),
        ("icelake-server", r"vpopcntq\s+%zmm", r"vpdpbusd\s+.*%zmm", r"\bcnt\b"),
        ("skylake-avx512", r"vpshufb\s+%zmm", r"vpmaddubsw\s+.*%ymm", r"vpopcntq|vpdpbusd"),
        ("haswell", r"vpshufb\s+%ymm", r"vpmaddubsw\s+.*%ymm", r"%zmm|vpopcnt"),
        ("cortex-a72", r"cnt\s+v\d+\.16b", r"\btbl\b", r"[us]dot\s|%ymm|ptrue"),
        ("neoverse-n1", r"cnt\s+v\d+\.16b", r"[us]dot\s", r"%ymm|ptrue"),
    ],
)
def test_every_kernel_compiles_for_the_cpu(cpu: str, counts: str, multiplies: str, foreign: str) -> None:
    texts = {}
    for name, function in kernels(cpu).items():
        started = time.process_time()
        texts[name] = source(function, cpu)
        assert time.process_time() - started < SECONDS, name
        assert not re.search(foreign, texts[name]), name
    for name in ("linear", "qk", "pv"):
        assert re.search(counts, texts[name]), name
    assert re.search(multiplies, texts["linear_int8"])


@pytest.mark.parametrize("weight", [Encoding.BINARY, Encoding.TERNARY])
@pytest.mark.parametrize("k", [256, 384])
def test_the_masked_codes_of_weights_are_not_kept_on_the_stack(weight: Encoding, k: int) -> None:
    # LLVM unrolls the few words of a row, and then hoists what depends on the weights alone out of the loop
    # over rows: there were 278 and 406 accesses, and a single row took up to two and a half times as long.
    isa = isa_of("sapphirerapids")
    text = source(linear(LinearSpec(16384, k, Encoding.INT8, weight, True, True, isa)), "sapphirerapids")
    assert len(re.findall(r"zmm.*\(%rsp|\(%rsp.*zmm", text)) < 100
