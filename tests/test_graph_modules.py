"""Graphs of `torch.fx` and exported programs, from prepared to loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from call_models import Block, X
from torch import Tensor, fx, nn

import tbt_compile
from tbt_compile.adapters import adapter_for
from tbt_compile.errors import FormatError, PlanError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class WrittenOut(nn.Module):
    """One attention in the forward of the model itself, [B, H, T, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).unflatten(-1, (2, 8)).transpose(1, 2)
        return torch.softmax(y @ y.transpose(2, 3), -1) @ y


def frozen(model: nn.Module, x: Tensor = X) -> tbt_compile.FrozenModel:
    torch.manual_seed(0)
    tbt_compile.prepare(model, "2-2-2", (x,))
    with torch.no_grad():
        expected = model.eval()(x)
    found = tbt_compile.freeze(model)
    assert torch.equal(found(x), expected)
    return found


def test_a_traced_attention_freezes_and_loads(tmp_path: Path) -> None:
    model = frozen(fx.symbolic_trace(WrittenOut()))
    model.save(tmp_path / "frozen")
    loaded = tbt_compile.load(tmp_path / "frozen", model=fx.symbolic_trace(WrittenOut()))
    assert torch.equal(loaded(X), model(X))


def test_an_attention_of_the_model_itself_loads(tmp_path: Path) -> None:
    model = frozen(WrittenOut())
    model.save(tmp_path / "frozen")
    assert torch.equal(tbt_compile.load(tmp_path / "frozen", model=WrittenOut())(X), model(X))


def test_an_exported_program_loads_and_can_be_exported_for_compilation(tmp_path: Path) -> None:
    program = torch.export.export(Block().eval(), (X,))
    model = frozen(program.module())
    model.save(tmp_path / "frozen")
    loaded = tbt_compile.load(tmp_path / "frozen", model=program)
    assert isinstance(loaded, tbt_compile.FrozenModel)
    assert torch.equal(loaded(X), model(X))
    units = adapter_for(loaded.module).export_units(loaded.module)
    assert [argument["name"] for argument in units.settings["inputs"]] == ["x"]


def test_a_class_is_no_model_to_load_into(tmp_path: Path) -> None:
    frozen(Block()).save(tmp_path / "frozen")
    with pytest.raises(FormatError, match="Block'>: expected an instance"):
        tbt_compile.load(tmp_path / "frozen", model=Block)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(PlanError, match="is TorchScript"):
        tbt_compile.plan(torch.jit.trace(nn.Linear(4, 4), torch.randn(2, 4)), "2-2-2", torch.randn(2, 4))


@pytest.mark.parametrize("recipe", ["2-2-2", "2-2-8", "32-2-32"])
def test_a_single_vector_stays_one(recipe: str) -> None:
    layer, x = nn.Linear(8, 4), torch.randn(8)
    tbt_compile.prepare(layer, recipe, (x,))
    assert layer(x).shape == (4,)
    layer(x).sum().backward()
    assert tbt_compile.freeze(layer)(x).shape == (4,)
