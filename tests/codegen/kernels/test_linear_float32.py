"""Linear layers in full precision: right in every tail, and the same in every batch."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_tools import eager_tokens, sources, trained
from models import bart

import tbt_compile
from tbt_compile.codegen.kernels.linear.float32 import FloatLinearSpec, linear_float
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.tools.standalone import compile_kernel
from tbt_compile.codegen.tvm_api import tvm

TARGET = parse_target("host")


@pytest.mark.parametrize(("n", "k"), ((1, 1), (7, 63), (130, 200)))
@pytest.mark.parametrize("bias", (False, True))
def test_products(n: int, k: int, bias: bool) -> None:
    run = compile_kernel(linear_float(FloatLinearSpec(n, k, bias, TARGET.isa)), TARGET)
    generator = np.random.default_rng(1)
    x, w = (generator.standard_normal(shape, dtype=np.float32) for shape in ((5, k), (n, k)))
    b = generator.standard_normal(n, dtype=np.float32)

    def apply(rows: np.ndarray) -> np.ndarray:
        y = tvm.runtime.tensor(np.zeros((len(rows), n), np.float32))
        run(*(tvm.runtime.tensor(array) for array in (rows, w, *([b] if bias else []))), y)
        return y.numpy()

    together = apply(x)
    np.testing.assert_allclose(together, x @ w.T + (b if bias else 0), rtol=1e-4, atol=1e-4)
    for row in range(len(x)):
        np.testing.assert_array_equal(apply(x[row : row + 1])[0], together[row])


def test_a_whole_model_in_full_precision() -> None:
    prepared = trained(bart(layers=1), "32-32-32")
    model = tbt_compile.lower(prepared)
    assert any(name.startswith("linear_float") for name in model.kernels)
    ids, mask = sources(pad=1)
    expected = eager_tokens(prepared, ids, mask, max_new_tokens=9)
    np.testing.assert_array_equal(model.generate(ids, mask, max_new_tokens=9), expected)
