"""Modules whose products are calls of functions, with inputs: for the tests of preparing and of lowering."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from transformers import BertConfig, BertForSequenceClassification

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
KEPT = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


class Functional(nn.Module):
    """Products with parameters in every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(24, 16)), nn.Parameter(torch.randn(24))
        self.second, self.third = nn.Parameter(torch.randn(24, 8)), nn.Parameter(torch.randn(3, 4, 8))
        self.last = nn.Parameter(torch.randn(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(x, self.first, self.bias)) @ self.second
        x = torch.einsum("btk,hdk->bthd", x, self.third).flatten(2)
        y = torch.addmm(self.last.new_zeros(6), x.flatten(0, 1), self.last.t())
        return y.view(*x.shape[:2], 6) + (self.last @ x.transpose(1, 2)).transpose(1, 2)


class Fused(nn.Module):
    """Attention as one call, with options."""

    def __init__(self, groups: int = 1, **options: Any) -> None:
        super().__init__()
        self.groups, self.options = groups, options
        self.query, self.rest = nn.Linear(16, 16), nn.Linear(16, 2 * (16 // groups))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        key, value = self.rest(x).unflatten(-1, (2, 2 // self.groups, 8)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask[:, None, None, :]
        options = {"enable_gqa": self.groups > 1, **self.options}
        return F.scaled_dot_product_attention(query, key, value, mask, **options).transpose(1, 2).flatten(2)


class Einsum(nn.Module):
    """Attention by einsum, with the value in front in the second product."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.all(x).unflatten(-1, (3, 2, 8)).unbind(2)
        weights = (torch.einsum("bihd,bjhd->bhij", query, key) / 8**0.5).softmax(-1)
        return torch.einsum("bjhd,bhij->bihd", value, weights).flatten(2)


class Viewed(nn.Module):
    """Views results as they lie in memory: a capture drops the call of `contiguous`."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], 2, 8).transpose(1, 2)
        y = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2)
        return (self.mix @ y.contiguous().view(x.shape)).view(len(x), -1)


class Caching(nn.Module):
    """Computes a table by a product when it runs for the first time, as rotary positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.known = nn.Parameter(torch.randn(16, 16)), 0
        self.register_buffer("table", torch.zeros(5, 16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.known < x.shape[1]:
            self.known = x.shape[1]
            self.table = torch.einsum("i,j->ij", torch.arange(5.0), torch.arange(16.0)).cos()
        return F.linear(x + self.table, self.weight)


class BothWays(nn.Module):
    """Two attentions that share their scores, one over each of the dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        (first, u), (second, v) = self.both(x).chunk(2, -1), self.both(y).chunk(2, -1)
        scores = first @ second.transpose(1, 2) / 4
        return self.out(scores.softmax(-1) @ v), torch.einsum("bij,bid->bjd", scores.softmax(-2), u)


class Chained(nn.Module):
    """An attention whose scores are the output of another."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.all(x).chunk(3, -1)
        gates = (query @ key.transpose(1, 2) / 4).softmax(-1) @ value
        return gates.softmax(-1) @ value.transpose(1, 2)


class Branching(nn.Module):
    """A forward that no tracer can follow, with two attentions."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(16, 16)

    def forward(self, *tensors: Tensor) -> Tensor:
        (x,) = tensors
        weights = (x @ x.transpose(-2, -1) / 4).softmax(-1)
        if x.shape[1] > 3:
            weights = weights * 0.5
        x = weights @ self.value(x)
        return torch.baddbmm(x.new_zeros(1, 1, 1), x, x.transpose(1, 2)).softmax(-1) @ x


class Doubled(nn.Linear):
    """A layer whose forward is its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * 2, self.bias)


class Table(nn.Module):
    """A table that is looked up and projected on, without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 16))

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(F.embedding(ids, self.table), self.table)


def multihead(**options: Any) -> nn.Module:
    return nn.MultiheadAttention(16, 2, **options)


def weight_norm() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))


class Block(nn.Module):
    """An owner among layers that are quantized as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = Fused(), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.inner(x)))


IDS = torch.arange(24).view(3, 8) % 20


def exported_bert() -> nn.Module:
    """A model of transformers as an exported program, whose batch size a buffer fixes."""
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    return torch.export.export(model, (IDS, torch.ones_like(IDS))).module()


class Features(nn.Module):
    """An image classifier with convolutions of every kind: x `[B, 3, 9, 8]` -> scores `[B, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1, groups=12),
            nn.Conv2d(12, 12, 3, dilation=(2, 1), padding="same", bias=False),
        )
        self.rows = nn.Conv1d(12, 6, 3, stride=2, padding=1, padding_mode="circular")
        self.head = nn.Linear(6, 5)
        for parameter in self.parameters():
            if parameter.dim() > 1:  # so that scores differ from image to image
                nn.init.kaiming_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(self.rows(x.view(x.shape[0], 12, -1)).relu().mean(-1))


class Kernels(nn.Module):
    """Convolutions as calls, with arguments in every form."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(6, 3, 3, 4)), nn.Parameter(torch.randn(6))
        self.second, self.third = nn.Parameter(torch.randn(8, 6, 1, 1)), nn.Parameter(torch.randn(4, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, weight=self.first, bias=self.bias, padding="same").relu()
        x = torch.conv2d(x, self.second * 2, None, (2, 1)).flatten(2)
        zeros, (step,) = x.new_zeros(4), (2,)
        return torch.convolution(x, self.third, zeros, [step], [2], [3], False, [0], 1)


def exported(model: nn.Module, x: Tensor, decomposed: bool = False) -> nn.Module:
    program = torch.export.export(model.eval(), (x,))
    return (program.run_decompositions() if decomposed else program).module()


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 4, 1))


CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "functional": (Functional, (X,)),
    "fused": (Fused, (X,)),
    "causal": (lambda: Fused(is_causal=True, scale=0.3), (X,)),
    "boolean mask": (Fused, (X, KEPT)),
    "additive mask": (Fused, (X, torch.where(KEPT, 0.0, -torch.inf))),
    "grouped queries": (lambda: Fused(groups=2), (X,)),
    "einsum": (Einsum, (X,)),
    "viewed": (Viewed, (X,)),
    "exported, viewed": (lambda: torch.export.export(Viewed().eval(), (X,)).module(), (X,)),
    "caching": (Caching, (X,)),
    "both ways": (BothWays, (X, X[:, :3])),
    "chained": (Chained, (X,)),
    "branching": (Branching, (X,)),
    "own forward": (lambda: Doubled(16, 8), (X,)),
    "table": (Table, (torch.arange(10).view(2, 5),)),
    "parametrized": (weight_norm, (X,)),
    "multihead": (lambda: multihead(batch_first=True), (X, X, X)),
    "cross": (
        lambda: multihead(kdim=8, vdim=6, add_bias_kv=True, add_zero_attn=True),
        (X, X[..., :8], X[..., :6]),
    ),
    "padding": (lambda: multihead(batch_first=True), (X, X, X, ~KEPT, False)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), (X,)),
    "transformer": (lambda: nn.Transformer(16, 2, 1, 1, 24, dropout=0.0, batch_first=True), (X, X[:, :3])),
    "block": (Block, (X,)),
    "graph": (lambda: fx.symbolic_trace(Block()), (X,)),
    "exported BERT": (exported_bert, (IDS, (IDS > 2).long())),
    "exported": (lambda: exported(Block(), X), (X,)),
}
CONVOLUTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "pointwise": (lambda: nn.Conv1d(5, 8, 1, stride=2), (X,)),
    "padded": (lambda: nn.Conv1d(5, 8, 4, padding="same"), (X,)),
    "dilated": (lambda: nn.Conv2d(3, 8, (2, 3), stride=(1, 2), padding=(2, 1), dilation=2), (IMAGE,)),
    "circular": (lambda: nn.Conv2d(3, 8, 3, padding=(1, 2), padding_mode="circular"), (IMAGE,)),
    "unbatched": (lambda: nn.Conv2d(3, 8, 3, padding=1), (IMAGE[0],)),
    "strided input": (
        lambda: two_layers().to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        (IMAGE.to(memory_format=torch.channels_last),),
    ),
    "convolutions": (Features, (IMAGE,)),
    "kernels": (Kernels, (IMAGE,)),
    "normalized weight": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3), dim=0),
        (IMAGE,),
    ),
    "graph of layers": (lambda: fx.symbolic_trace(Features()), (IMAGE,)),
    "graph of calls": (lambda: fx.symbolic_trace(Kernels()), (IMAGE,)),
    "exported convolutions": (lambda: exported(two_layers(), IMAGE), (IMAGE,)),
    "decomposed": (lambda: exported(two_layers(), IMAGE, decomposed=True), (IMAGE,)),
}
