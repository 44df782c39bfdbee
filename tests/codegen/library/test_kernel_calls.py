"""Units read as straight-line code: which tensors are one argument, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tbt_compile.codegen.importer.caches import Caches
from tbt_compile.codegen.library.kernel_calls import KernelCalls, Tensor, read_calls
from tbt_compile.codegen.tvm_api import Expr, T, relax
from tbt_compile.errors import LoweringError

X, Y, KEYS, VALUES = (Tensor(key, [T.int64(2), T.int64(5)], "float32") for key in (1, 2, 3, 4))


def function_of(body: Callable[[Expr], Expr]) -> relax.Function:
    """A Relax function of x, float32 [2, 6]."""
    x = relax.Var("x", relax.TensorType([2, 6], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("unit", [x]):
        builder.emit_func_output(builder.emit(body(x)))
    (function,) = builder.get().functions.values()
    assert isinstance(function, relax.Function)
    return function


def test_members_of_a_stack_are_one_argument() -> None:
    calls = KernelCalls("unit", stacked={3: (3, 4), 4: (3, 4)})
    assert calls.arguments([X, KEYS, Y, VALUES]) == [[X], [KEYS, VALUES], [Y]]
    assert [int(size) for size in calls.argument_shape([KEYS, VALUES])] == [2, 2, 5]
    assert [int(size) for size in calls.argument_shape([X])] == [2, 5]


def test_an_operator_that_was_not_brought_down_to_a_kernel_is_refused() -> None:
    function = function_of(lambda x: relax.op.add(x, x))
    with pytest.raises(LoweringError, match=r"the step holds relax\.add, which has no kernel"):
        read_calls(function, "step", Caches())


def test_a_view_of_an_input_is_no_result() -> None:
    function = function_of(lambda x: relax.op.reshape(x, [3, 4]))
    with pytest.raises(LoweringError, match="the step returns one of its inputs"):
        read_calls(function, "step", Caches())


def test_memory_is_counted_once_for_a_tensor_and_its_views() -> None:
    def body(_: Expr) -> Expr:
        shape = relax.ShapeExpr([T.int64(3), T.int64(40)])
        return relax.op.reshape(relax.op.builtin.alloc_tensor(shape, "float32", 0), [120])

    calls = read_calls(function_of(body), "step", Caches())
    (view,) = calls.outputs
    assert [int(size) for size in view.shape] == [120]
    assert [int(size.value) for size in calls.allocated.values()] == [512]
    assert view.key in calls.allocated
