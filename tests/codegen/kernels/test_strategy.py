"""Which kernel multiplies what: every CPU, the thresholds, and that the table and the kernels agree."""

from __future__ import annotations

from itertools import product

import pytest
from kernel_tools import isa_of

from tbt_compile.codegen.kernels.dispatch import Kernel
from tbt_compile.codegen.kernels.linear.linear import IMPLEMENTATIONS, LinearSpec
from tbt_compile.codegen.kernels.linear.packed_dot import PackedDot
from tbt_compile.codegen.kernels.strategy import (
    BITS,
    BYTES,
    LINEAR,
    OUTPUTS,
    SCORES,
    counts_with_carry_save,
    strategy,
)
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.spec import list_targets
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

B, T, I8, U8 = Encoding.BINARY, Encoding.TERNARY, Encoding.INT8, Encoding.UINT8
POPCOUNT, CARRY_SAVE, LUT_GEMM = Kernel.POPCOUNT, Kernel.CARRY_SAVE, Kernel.LUT_GEMM
LUT_SUMS, PACKED, UNPACKED = Kernel.LUT_SUMS, Kernel.PACKED_DOT, Kernel.UNPACKED_DOT
SHUFFLE_SUMS, SMALL_SUMS = Kernel.SHUFFLE_SUMS, Kernel.SMALL_SUMS

# CPU: kernels for 1 x 1 bits, 2 x 2, 8 x 1 and 8 x 2, each for few rows and for many, and rows that are many.
CPUS = {
    "x86-64": [(POPCOUNT, POPCOUNT, 1)] * 2 + [(POPCOUNT, UNPACKED, 8)] * 2,
    "haswell": [(POPCOUNT, LUT_GEMM, 8), (SMALL_SUMS, LUT_GEMM, 32)] + [(SHUFFLE_SUMS, SHUFFLE_SUMS, 1)] * 2,
    "alderlake": [(POPCOUNT, LUT_GEMM, 8), (SMALL_SUMS, LUT_GEMM, 32)] + [(PACKED, UNPACKED, 32)] * 2,
    "skylake-avx512": [(POPCOUNT, LUT_GEMM, 8), (SMALL_SUMS, LUT_GEMM, 32)]
    + [(SHUFFLE_SUMS, SHUFFLE_SUMS, 1)] * 2,
    "cascadelake": [(POPCOUNT, LUT_GEMM, 8), (SMALL_SUMS, LUT_GEMM, 32)] + [(PACKED, UNPACKED, 32)] * 2,
    "znver4": [(POPCOUNT, POPCOUNT, 1)] * 2 + [(PACKED, UNPACKED, 32)] * 2,
    "cortex-a72": [(POPCOUNT, POPCOUNT, 1), (CARRY_SAVE, CARRY_SAVE, 1)] + [(LUT_SUMS, LUT_SUMS, 1)] * 2,
    "neoverse-n1": [(POPCOUNT, POPCOUNT, 1), (CARRY_SAVE, CARRY_SAVE, 1)] + [(PACKED, UNPACKED, 32)] * 2,
    "neoverse-v1": [(POPCOUNT, POPCOUNT, 1), (CARRY_SAVE, CARRY_SAVE, 1)]
    + [(PACKED, Kernel.MATRIX_DOT, 2)] * 2,
}


@pytest.mark.parametrize("cpu", CPUS)
def test_kernels_of_a_cpu(cpu: str) -> None:
    for (x, w), expected in zip(((B, B), (T, T), (I8, B), (I8, T)), CPUS[cpu], strict=True):
        found = strategy(x, w, isa_of(cpu))
        assert (found.gemv, found.gemm, found.gemm_from) == expected, (x, w)
        assert found.kernel(1) is (found.gemm if found.gemm_from == 1 else found.gemv)
        assert found.kernel(found.gemm_from) is found.gemm


def test_every_cpu_has_a_kernel_for_every_product() -> None:
    for spec in list_targets():
        for x, w in [*product((*BITS, *BYTES), (B, T)), *product(BYTES, (I8,))]:
            found = strategy(x, w, spec.isa)
            assert {found.gemv, found.gemm} <= set(IMPLEMENTATIONS)
            # A weight is stored once, whichever sizes the layer has.
            assert strategy(x, w, spec.isa, 1 << 20).layout is found.layout
        for table in (SCORES, OUTPUTS):
            for x, w in [*product(BITS, BITS), *product(BYTES, BYTES)]:
                strategy(x, w, spec.isa, table=table)


def test_where_carry_save_is_used_every_table_says_so() -> None:
    for spec in list_targets():
        for (x, w), table in product(product(BITS, (B, T)), (LINEAR, SCORES, OUTPUTS)):
            kernels = {strategy(x, w, spec.isa, table=table).gemv, strategy(x, w, spec.isa, table=table).gemm}
            counted = CARRY_SAVE if counts_with_carry_save(x, w, spec.isa) else POPCOUNT
            assert kernels <= {counted, LUT_GEMM, SMALL_SUMS}


def test_every_row_of_the_tables_is_used_by_some_cpu() -> None:
    isas = [spec.isa for spec in list_targets()]
    for table in (LINEAR, SCORES, OUTPUTS):
        pairs = [*product((*BITS, *BYTES), (*BITS, *BYTES))]
        used = {
            id(row) for isa in isas for x, w in pairs for row in table if row.fits(x, w, isa, 64) and row.why
        }
        assert used == {id(row) for row in table}


def test_lookups_are_left_out_where_a_sum_might_not_fit_16_bits() -> None:
    isa = isa_of("haswell")
    assert strategy(T, T, isa, 768).gemm is LUT_GEMM
    assert strategy(T, T, isa, 1 << 16).gemm is SMALL_SUMS
    assert strategy(B, B, isa, 1 << 16).gemm is POPCOUNT
    # Its index would have more than 8 bits.
    assert strategy(T, B, isa, 64).gemm is POPCOUNT
    assert strategy(B, T, isa, 64).gemm is LUT_GEMM


@pytest.mark.parametrize(
    ("cpu", "x", "w", "layout"),
    [
        ("znver4", I8, T, Layout.PAIRS),
        ("alderlake", U8, T, Layout.PAIRS),
        ("znver4", I8, B, Layout.PLANES),
        ("znver4", T, T, Layout.PLANES),
        ("haswell", I8, T, Layout.OCTETS),
        ("skylake-avx512", U8, B, Layout.OCTETS),
        ("haswell", T, T, Layout.OCTETS),
        ("haswell", B, B, Layout.PLANES),
        ("cortex-a72", I8, B, Layout.QUARTERS),
        ("cortex-a72", U8, T, Layout.QUARTERS),
        ("cortex-a72", T, T, Layout.PLANES),
        ("neoverse-n1", I8, T, Layout.PAIRS),
    ],
)
def test_weights_lie_as_their_kernels_read_them(cpu: str, x: Encoding, w: Encoding, layout: Layout) -> None:
    assert LinearSpec(8, 64, x, w, True, True, isa_of(cpu)).layout is layout


def test_packed_rows_have_room_until_unpacking_pays() -> None:
    assert strategy(I8, B, isa_of("znver4")).gemm_from == PackedDot.chunk_rows + 1


def test_codes_that_nothing_multiplies() -> None:
    with pytest.raises(LoweringError, match="no kernel multiplies TERNARY with INT8 codes"):
        strategy(T, I8, isa_of("znver4"))
    with pytest.raises(LoweringError, match="no kernel multiplies INT8 with TERNARY codes"):
        strategy(I8, T, isa_of("znver4"), table=SCORES)
