"""Places of intermediate results: used again when they are free, never by two at a time, and aligned."""

from __future__ import annotations

from kernel_tools import runnable, source

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.library.workspace import Workspace, bytes_of
from tbt_compile.codegen.tvm_api import STACK_BYTES, IRBuilder, T, structural_equal


def constant(expression: object) -> int:
    return int(expression.value)  # type: ignore[attr-defined]


def test_bytes_are_rounded_up_to_whole_cache_lines() -> None:
    assert constant(bytes_of([T.int64(3), T.int64(5)], "float32")) == 64
    assert constant(bytes_of([T.int64(17)], "float32")) == 128
    assert constant(bytes_of([T.int64(65)], "bool")) == 128
    assert constant(bytes_of([T.int64(8), T.int64(2)], "uint64")) == 128


def test_a_place_is_used_again_by_a_tensor_of_its_size() -> None:
    size, other = T.int64(640), T.int64(1280)
    plan = Workspace({1: size, 2: size, 3: size, 4: other}, [[1], [1, 2], [2, 3], [3, 4]])
    assert [constant(plan.offsets[key]) for key in (1, 2, 3, 4)] == [0, 640, 0, 1280]
    assert constant(plan.size) == 2560


def test_tensors_that_live_together_never_share() -> None:
    size = T.int64(1024)
    plan = Workspace({1: size, 2: size, 3: size}, [[1], [2], [1, 2, 3]])
    assert sorted(constant(offset) for offset in plan.offsets.values()) == [0, 1024, 2048]


def test_sizes_known_at_run_time() -> None:
    with IRBuilder():
        rows = emit.symbol("rows")
    size = bytes_of([rows, T.int64(32)], "float32")
    plan = Workspace({1: size, 2: bytes_of([rows, T.int64(32)], "float32")}, [[1], [2]])
    assert structural_equal(plan.offsets[1], plan.offsets[2])


def test_a_small_workspace_does_not_end_up_on_the_stack() -> None:
    assert constant(Workspace({1: T.int64(64)}, [[1]]).size) == STACK_BYTES
    assert constant(Workspace({}, [[7]]).size) == STACK_BYTES


def test_small_scratch_is_on_the_stack_however_much_of_it_is_used() -> None:
    def body() -> None:
        rows = emit.symbol("rows")
        x, y = emit.argument("x", (rows,), "float32"), emit.argument("y", (rows,), "float32")
        few = emit.scratch("few", (16,), "float32")
        used = T.min(T.int64(16), rows)
        with emit.loop("i", used) as i:
            emit.store(few, emit.load(x, i), i)
        with emit.loop("i", used) as i:
            emit.store(y, emit.load(few, used - 1 - i), i)

    text = source(emit.function("kernel", body), runnable()[0], "ll")
    assert "alloca [16 x float]" in text or "alloca <16 x float>" in text
    assert "AllocWorkspace" not in text
