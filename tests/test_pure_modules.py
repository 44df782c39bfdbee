"""Forwards that are no functions of their inputs: refused by name, in one sentence."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tbt_compile
from tbt_compile.adapters import adapter_for
from tbt_compile.errors import CaptureError, LoweringError

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """A linear layer, and what forwards may change."""

    history: list[int] = []  # noqa: RUF012  (shared by design)

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.calls, self.kept = 0, None
        self.register_buffer("mean", torch.ones(8))

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)


class BranchOnValue(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y * 2 if y.sum() > 0 else y


class NumberAsSize(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[:, : int(x.abs().sum())]


class Asserted(Base):
    def forward(self, x: Tensor) -> Tensor:
        assert (x < 100).all()
        return self.linear(x)


class StructureByValue(Base):
    def forward(self, x: Tensor) -> Any:
        return {"y": self.linear(x)} if bool(x[0, 0] > 9) else self.linear(x)


@pytest.mark.parametrize("kind", [BranchOnValue, NumberAsSize, Asserted, StructureByValue])
def test_a_branch_on_values_is_refused_with_its_line(kind: type[nn.Module]) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kind()

        def forward(self, x: Tensor) -> Any:
            return self.inner(x)

    with pytest.raises(CaptureError) as caught:
        tbt_compile.prepare(Outer(), "2-2-2", (X,))
    message = str(caught.value)
    assert f"module 'inner' ({kind.__name__}) (test_pure_modules.py:" in message
    assert "by the values of a tensor" in message
    assert "\n" not in message


class Item(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * x.max().item()


class Selected(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[x[:, 0] > 0]


class Checked(Base):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert_async((x < 100).all(), "too large")
        return self.linear(x)


class Noise(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.rand_like(x)


class Dropped(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, training=True)


class DroppedAttention(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)[None]
        return F.scaled_dot_product_attention(y, y, y, dropout_p=0.5)[0]


class PythonNoise(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * random.random()


class Counter(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.mean += 1
        return self.linear(x)


class Running(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.mean.copy_(0.9 * self.mean + 0.1 * x.mean(0))
        return self.linear(x) - self.mean


class Replaced(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean * 0.9 + 0.1 * x.mean(0)
        return self.linear(x) - self.mean


class BatchStatistics(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.linear(x), self.norm.running_mean, self.norm.running_var, training=True)


class Learning(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.linear.bias.add_(1)
        return self.linear(x)


class PythonCounter(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


class History(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.history.append(1)
        return self.linear(x) * len(self.history)


class Recurrent(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        y = y if self.kept is None else y + self.kept
        self.kept = y
        return y


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = 0
        return self.linear(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Item, r"reads the value of a tensor as a Python number \(aten.item"),
        (Selected, r"makes a tensor whose size depends on values \(aten.index"),
        (Checked, r"checks the values of a tensor \(aten._assert_async"),
        (Noise, r"the model itself draws random numbers \(aten.rand_like"),
        (Dropped, r"draws random numbers \(aten.dropout"),
        (DroppedAttention, "draws random numbers"),
        (PythonNoise, "the forward of PythonNoise draws random numbers"),
        (Counter, r"changes 'mean' in every call \(aten.add_"),
        (Running, r"changes 'mean' in every call \(aten.copy_"),
        (Replaced, "the forward of Replaced does not return the same when it is called again"),
        (BatchStatistics, "changes 'norm.running_mean' in every call"),
        (Learning, "changes 'linear.bias' in every call"),
        (PythonCounter, "the forward of PythonCounter changes its attribute 'calls' in every call"),
        (History, "the forward of History does not return the same"),
        (Recurrent, "the forward of Recurrent does not return the same"),
        (InPlace, "changes an argument in place"),
    ],
)
def test_state_and_chance_are_refused(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(LoweringError, match=message) as caught:
        exported(kind())
    assert "\n" not in str(caught.value)


def exported(module: nn.Module) -> Any:
    """The units of a module, prepared and frozen; nothing is compiled."""
    tbt_compile.prepare(module, "2-2-2", (X,))
    module.eval()(X.clone())
    frozen = tbt_compile.freeze(module).module
    return adapter_for(frozen).export_units(frozen)


class TrainingOnly(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(self.linear(x), 0.5, training=self.training)
        if self.training:
            self.calls += 1
            self.mean += torch.rand(8)
        return y


class Memo(Base):
    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.arange(8.0)
        return self.linear(x) + self.kept


class Remembers(Base):
    """Keeps a result for others to look at."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.linear(x)
        return self.kept * 2


class Overwrites(Base):
    """Uses a buffer as scratch memory."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean.copy_(x.mean(0))
        return self.linear(x) - self.mean


class CopyInPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = x.t().contiguous()
        y += 1
        return self.linear(y.t())


class WritesToOut(Base):
    """Has a comparison write into memory of its own, and changes that."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1))


@pytest.mark.parametrize("kind", [TrainingOnly, Memo, Remembers, Overwrites, CopyInPlace, WritesToOut])
def test_what_does_no_harm_is_exported(kind: type[nn.Module]) -> None:
    (unit,) = exported(kind()).contexts
    assert not any("copy_" in str(node.target) for node in unit.graph.nodes)


def test_a_capture_leaves_no_fake_tensors_behind() -> None:
    model = Remembers()
    tbt_compile.prepare(model, "2-2-2", (X,))
    assert type(model.kept) is Tensor
