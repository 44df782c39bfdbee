"""Operators defined by others: the bits of compiled code and of `exact()` are equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lowering_tools import export, library_of
from torch import Tensor, nn

from tbt_compile.codegen.importer.decompose import decompose
from tbt_compile.ops.exact import exact
from tbt_compile.passes.lowering import lowering_pipeline
from tbt_compile.runtime.bound_library import as_array, tensor

torch.manual_seed(0)
C, T = 16, 37
X = torch.randn(3, C, T)
WEIGHT, BIAS, VARIANCE = torch.randn(C), torch.randn(C), torch.rand(C) + 0.3
MASK = torch.rand(3, C, C) < 0.7
MASK[0, 0] = False

Function = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, Function] = {
    "convolution": lambda x: F.conv1d(x, KERNELS[0], padding=1),
    "grouped convolution": lambda x: F.conv1d(x, KERNELS[1], BIAS, padding=1, groups=4),
    "depthwise convolution": lambda x: F.conv1d(x, KERNELS[2], BIAS, padding=2, stride=2, groups=C),
    "depthwise convolution of images": lambda x: F.conv2d(x[None], KERNELS[3], dilation=2, groups=3),
    "several kernels of a channel": lambda x: F.conv1d(x, KERNELS[4], groups=C),
    "global mean": lambda x: F.adaptive_avg_pool1d(x, 1),
    "group norm": lambda x: F.group_norm(x, 4, WEIGHT, BIAS),
    "group norm without weights": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x, weight=WEIGHT, bias=BIAS),
    "batch norm": lambda x: F.batch_norm(x, BIAS, VARIANCE, WEIGHT, BIAS),
    "layer norm": lambda x: F.layer_norm(x, (T,)),
    "RMS norm": lambda x: F.rms_norm(x, (T,)),
    "variance": lambda x: torch.cat([each[..., None] for each in torch.var_mean(x, -1)], -1),
    "log1p": lambda x: x.abs().log1p(),
    "expm1": lambda x: x.expm1(),
    "softplus": F.softplus,
    "softplus with beta": lambda x: F.softplus(x, 3, 4),
    "mish": F.mish,
    "elu": lambda x: F.elu(x, 1.3),
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "log sigmoid": F.logsigmoid,
    "logit": lambda x: torch.logit(torch.sigmoid(x), 1e-3),
    "glu": lambda x: F.glu(x, 1),
    "hardswish": F.hardswish,
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(0), value=0.3),
    "lerp": lambda x: torch.lerp(x, x.flip(0), 0.3) + torch.lerp(x, x.flip(0), 0.8),
    "lerp with weights": lambda x: torch.lerp(x, x.flip(0), x.flip(1).sigmoid()),
    "difference with a factor": lambda x: torch.sub(x, x.flip(0), alpha=0.3),
    "logsumexp": lambda x: x.logsumexp(-1),
    "logsumexp of several": lambda x: x.logsumexp((0, 2), keepdim=True),
    "norm": lambda x: x.norm(dim=-1) + torch.linalg.vector_norm(x, 1, -1),
    "normalized": lambda x: F.normalize(x, dim=1),
    "cosine similarity": lambda x: F.cosine_similarity(x[:, :8], x[:, 8:], dim=-1),
    "einsum": lambda x: torch.einsum("bct,bdt->bcd", x, x) + torch.einsum("bct,dt->bcd", x, x[0]),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=MASK),
    "attention with a float mask": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x[..., :C]),
    "elu in place": lambda x: F.elu(x * 2, inplace=True),
    "hardswish in place": lambda x: F.hardswish(x * 2, inplace=True),
    "mish in place": lambda x: F.mish(x * 2, inplace=True),
    "difference in place": lambda x: (x * 2).sub_(x.flip(0), alpha=0.3),
    "lerp in place": lambda x: (x * 2).lerp_(x.flip(0), 0.3).addcmul_(x, x, value=0.7).expm1_(),
    "largest of equals": lambda x: torch.topk((x > 0.3).float(), 5, -1)[1].float(),
    "smallest of equals": lambda x: torch.topk((x > 0.3).float(), 7, 1, largest=False, sorted=False)[
        1
    ].float(),
    "linspace": lambda x: x + torch.linspace(0, 1, T),
}
KERNELS = [torch.randn(shape) for shape in ((24, C, 3), (C, 4, 3), (C, 1, 5), (3, 1, 3, 3), (2 * C, 1, 3))]


class Functions(nn.Module):
    """All functions; one more output has a parameter, as a unit needs one."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [*(function(x) for function in FUNCTIONS.values()), x * self.factor]


@pytest.fixture(scope="module")
def compiled() -> dict[str, np.ndarray]:
    """The results of the compiled functions, by name."""
    unit = export(Functions().eval(), X)
    decompose(unit)
    results = library_of([lowering_pipeline().run(unit)], {}).call("unit", tensor(X.numpy()))
    return {name: as_array(result) for name, result in zip(FUNCTIONS, results, strict=False)}


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.int32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_eager_and_compiled_bits(name: str, compiled: dict[str, np.ndarray]) -> None:
    with torch.no_grad(), exact():
        eager = FUNCTIONS[name](X)
    with torch.inference_mode(), exact():
        inferred = FUNCTIONS[name](X)
    np.testing.assert_array_equal(bits(compiled[name]), bits(eager.numpy()))
    np.testing.assert_array_equal(bits(inferred.numpy()), bits(eager.numpy()))
    if "equals" not in name:  # of which PyTorch takes any
        torch.testing.assert_close(eager, FUNCTIONS[name](X), rtol=1e-5, atol=1e-5)
