"""Inside `exact()`, PyTorch computes the bits of compiled code."""

from __future__ import annotations

from collections.abc import Callable

import float_spec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tbt_compile
from tbt_compile.ops.exact import exact

Function = Callable[[Tensor], Tensor]
X = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5, 37), dtype=np.float32) * 3)
WEIGHT = torch.from_numpy(np.random.default_rng(1).standard_normal((11, 37), dtype=np.float32))
KERNEL = torch.from_numpy(np.random.default_rng(2).standard_normal((7, 5, 3), dtype=np.float32))


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A convolution of stride 2 with one zero before and after, by windows and the specified dot product."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    starts = range(0, padded.shape[2] - 2, 2)
    windows = np.stack([padded[:, :, start : start + 3].reshape(len(x), -1) for start in starts], 1)
    rows = float_spec.dot(windows.reshape(-1, windows.shape[2]), kernel.reshape(len(kernel), -1))
    return rows.reshape(len(x), len(starts), len(kernel)).swapaxes(1, 2)


SPECIFIED: dict[str, tuple[Function, Callable[[np.ndarray], np.ndarray]]] = {
    "exp": (torch.exp, float_spec.exp_to_infinity),
    "gelu": (F.gelu, float_spec.gelu),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), float_spec.gelu_tanh),
    "silu": (F.silu, float_spec.silu),
    "sigmoid": (torch.sigmoid, float_spec.sigmoid),
    "tanh": (torch.tanh, float_spec.tanh),
    "sin": (torch.sin, float_spec.sin),
    "log": (lambda x: torch.log(x.abs()), lambda x: float_spec.log(np.abs(x))),
    "sqrt": (lambda x: x.abs().sqrt(), lambda x: np.sqrt(np.abs(x))),
    "softmax": (lambda x: x.softmax(-1), float_spec.softmax),
    "log_softmax": (lambda x: x.log_softmax(-1), float_spec.log_softmax),
    "sum": (lambda x: x.sum(-1), float_spec.total),
    "sum of two": (lambda x: x.sum((0, 2)), lambda x: float_spec.total(x.swapaxes(0, 1).reshape(5, -1))),
    "mean": (lambda x: x.mean(), lambda x: float_spec.total(x.reshape(-1)) / np.float32(x.size)),
    "linear": (lambda x: F.linear(x[0], WEIGHT), lambda x: float_spec.dot(x[0], WEIGHT.numpy())),
    "pooled": (
        lambda x: F.adaptive_avg_pool1d(x, 1),
        lambda x: (float_spec.total(x) / np.float32(37))[..., None],
    ),
    "convolution": (
        lambda x: F.conv1d(x, KERNEL, padding=1, stride=2),
        lambda x: convolved(x, KERNEL.numpy()),
    ),
    "layer norm": (
        lambda x: F.layer_norm(x, (37,), WEIGHT[0], WEIGHT[1], 1e-5),
        lambda x: float_spec.layer_norm(x, *WEIGHT.numpy()[:2], 1e-5),
    ),
}
LEFT: dict[str, Function] = {
    "float64": lambda x: x.double().softmax(-1),
    "integers": lambda x: (x * 100).long().sum(-1),
    "single operations": lambda x: (x * x + x) / 3,
}


def bits(x: Tensor | np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32)


@pytest.mark.parametrize("name", SPECIFIED)
def test_the_specified_bits(name: str) -> None:
    function, specified = SPECIFIED[name]
    with exact():
        got = function(X)
    with torch.inference_mode(), exact():
        inferred = function(X)
    np.testing.assert_array_equal(bits(got.numpy()), bits(specified(X.numpy())))
    np.testing.assert_array_equal(bits(inferred.numpy()), bits(got.numpy()))
    torch.testing.assert_close(got, function(X), rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_pytorch(name: str) -> None:
    with exact():
        got = LEFT[name](X)
    assert torch.equal(got.nan_to_num(), LEFT[name](X).nan_to_num())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.norm(),
        lambda x: (x - x.mean()) / x.std(),
        lambda x: x.sum().abs().sqrt() + x.sum().abs() ** 0.5,
        lambda x: x.sum().softmax(0) + x.sum().log_softmax(0) + x.mean().logsumexp(0) + x.sum().sum(0),
        lambda x: F.elu(x.sum()) + F.softplus(x.sum()) + x.mean().tanh().exp(),
        lambda x: x[:, :0].sum(1),
        lambda x: x[:, :, :0] @ x[:, :, :0].mT,
        lambda x: F.group_norm(x[:0], 5),
        lambda x: torch.std_mean(x, 1)[0] + torch.rsub(x, x.flip(0), alpha=0.3).sum(1),
        lambda x: x.clone().abs().pow_(0.5),
    ],
)
def test_scalars_and_empty_tensors(function: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad(), exact():
        got = function(X)
    torch.testing.assert_close(got, function(X), rtol=2e-6, atol=2e-5)


def test_in_place_functions_change_their_operand() -> None:
    x = X.clone()
    with exact():
        assert x.tanh_() is x
    np.testing.assert_array_equal(bits(x.numpy()), bits(float_spec.tanh(X.numpy())))


def test_a_scaled_addend_is_rounded() -> None:
    with exact():
        got = torch.add(X, X.flip(0), alpha=0.3)
    np.testing.assert_array_equal(bits(got.numpy()), bits(X.numpy() + X.flip(0).numpy() * np.float32(0.3)))


class Parts(nn.Module):
    """Floats in every form that sums or calls a function, around one quantized layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.LayerNorm(37), nn.Linear(37, 24)
        self.weight = nn.Parameter(torch.randn(24, 24))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(self.norm(x))
        scores = y @ y.transpose(-1, -2)
        spread = y.std(-1, keepdim=True) + y.var((0, 2), unbiased=False, keepdim=True)
        angles = torch.cat([y.sin(), y.cos()], -1)
        mixed = scores.softmax(1) @ y + torch.tanh(y @ self.weight) * spread
        return (
            mixed.log_softmax(-1),
            torch.baddbmm(y, scores, y, beta=0.5, alpha=0.3),
            (angles.exp().sum(-1) + 1).log(),
            (y * torch.sigmoid(y) / (y.mean(0) + 9)).erf(),
        )


def test_every_part_of_a_module_has_the_bits_of_its_compiled_form() -> None:
    module = Parts().eval()
    tbt_compile.prepare(module, "2-2-8", (X,))
    frozen = tbt_compile.freeze(module)
    got = tbt_compile.lower(frozen)(X.numpy())
    for one, other in zip(got, frozen(X), strict=True):
        np.testing.assert_array_equal(bits(one), bits(other.numpy()))
