"""Large inputs, which take the path with several threads: the same results as row by row."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_tools import call, codes, floats, isa_of, kernel, powers, runnable, scalar

from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.attention.attention import AttentionSpec, pv, qk
from tbt_compile.codegen.kernels.float_ops.activations import ActivationSpec, activation
from tbt_compile.codegen.kernels.float_ops.norms import NormSpec, layer_norm
from tbt_compile.codegen.kernels.float_ops.softmax import SoftmaxSpec, softmax
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.layouts import pack_planes
from tbt_compile.codegen.tools.standalone import stored_weight
from tbt_compile.encoding import Encoding

HOST = runnable()[0]
ISA = isa_of(HOST)


@pytest.mark.parametrize("encoding", (Encoding.TERNARY, Encoding.INT8))
def test_linear(encoding: Encoding) -> None:
    n, k, rows = 2080, 768, 70
    weight, scale, x = codes(1, Encoding.TERNARY, n, k), powers(2, n), floats(3, rows, k)
    spec = LinearSpec(n, k, encoding, Encoding.TERNARY, True, False, ISA)
    stored = stored_weight(weight, spec)
    y = call(kernel(linear, spec, HOST), [x, scalar(0.5), stored, scale], (rows, n), np.float32)
    x_codes, x_scale = reference.quantize(x, encoding, 0.5, True)
    total = (x_codes.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(y, total * (x_scale * scale).astype(np.float32))


@pytest.mark.parametrize("target", runnable("haswell"))
@pytest.mark.parametrize("rows", [127, 128, 133])
@pytest.mark.parametrize(
    ("activation", "weight"),
    [
        (Encoding.INT8, Encoding.TERNARY),
        (Encoding.INT8, Encoding.BINARY),
        (Encoding.TERNARY012, Encoding.TERNARY),
    ],
)
def test_many_rows(activation: Encoding, weight: Encoding, rows: int, target: str) -> None:
    """Where rows are packed as tables, threads have chunks of rows of their own."""
    n, k, isa = 289, 260, isa_of(target)
    stored, scale, x = codes(1, weight, n, k), powers(2, n), floats(3, rows, k)
    spec = LinearSpec(n, k, activation, weight, activation.signed and not activation.dynamic, False, isa)
    run = kernel(linear, spec, target)
    y = call(run, [x, scalar(0.5), stored_weight(stored, spec), scale], (rows, n), np.float32)
    x_codes, x_scale = reference.quantize(x, activation, 0.5, spec.center)
    total = (x_codes.astype(np.float64) @ stored.T.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(y, total * (x_scale * scale).astype(np.float32))


def test_attention() -> None:
    heads, queries, tokens, d = 12, 66, 512, 64
    spec = AttentionSpec(d, Encoding.TERNARY, Encoding.BINARY, True, ISA)
    keys = codes(1, Encoding.BINARY, 1, heads, tokens, d)
    q, p = floats(2, 1, heads, queries, d), floats(3, 1, heads, queries, tokens)
    shape = (1, heads, queries, tokens)
    packed = pack_planes(keys, Encoding.BINARY)[..., 0, :]
    scores = call(kernel(qk, spec, HOST), [q, scalar(0.5), packed, scalar(0.5)], shape, np.float32)
    planes = np.moveaxis(pack_planes(np.swapaxes(keys, -1, -2), Encoding.BINARY), (-3, -2, -1), (-1, -2, -3))
    shape = (1, heads, queries, d)
    context = call(kernel(pv, spec, HOST), [p, scalar(0.5), planes, scalar(0.5)], shape, np.float32)

    real = keys.astype(np.float64) * 0.5
    q_codes, _ = reference.quantize(q, Encoding.TERNARY, 0.5, True)
    p_codes, _ = reference.quantize(p, Encoding.TERNARY, 0.5, True)
    np.testing.assert_array_equal(scores, q_codes * 0.5 @ np.swapaxes(real, -1, -2))
    np.testing.assert_array_equal(context, p_codes * 0.5 @ real)


def test_row_operators() -> None:
    x = floats(1, 700, 768)
    gamma, beta = floats(2, 768), floats(3, 768)
    functions = (
        (kernel(layer_norm, NormSpec(768, 1e-5, ISA), HOST), [gamma, beta]),
        (kernel(activation, ActivationSpec("gelu", 768, ISA), HOST), []),
    )
    for run, rest in functions:
        together = call(run, [x, *rest], x.shape, np.float32)
        few = call(run, [x[-9:], *rest], (9, 768), np.float32)
        np.testing.assert_array_equal(together[-9:], few)


def test_softmax() -> None:
    x = floats(1, 2, 12, 60, 512)
    run = kernel(softmax, SoftmaxSpec(ISA), HOST)
    together = call(run, [x], x.shape, np.float32)
    few = call(run, [x[1:, -1:]], (1, 1, 60, 512), np.float32)
    np.testing.assert_array_equal(together[1:, -1:], few)
