"""Layers whose weight is computed from other parameters: parametrizations, weight norms, pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import tbt_compile
from tbt_compile.errors import PlanError

parametrizations = nn.utils.parametrizations


def pruned(layer: nn.Linear) -> nn.Linear:
    return prune.l1_unstructured(layer, "weight", amount=0.5)


def both(layer: nn.Linear) -> nn.Linear:
    return parametrizations.weight_norm(parametrizations.weight_norm(layer), "bias", dim=None)


COMPUTED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of both": both,
    "orthogonal": parametrizations.orthogonal,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm by a hook": nn.utils.weight_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "pruned": pruned,
}
ORIGINALS = ("original", "weight_g", "weight_v", "weight_orig", "weight_mask", "base", "_u")
X = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    make = COMPUTED[name]
    return nn.Sequential(nn.Linear(24, 32), make(nn.Linear(32, 16)), nn.Tanh(), make(nn.Linear(16, 16)))


def trained(name: str) -> nn.Module:
    """A prepared model after steps that change what the weights are computed from."""
    model = tbt_compile.prepare(network(name), "2-2-2", X).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model.eval()


def output(model: nn.Module | tbt_compile.FrozenModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(X)
        return found


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*deprecated in favor of:FutureWarning")
def test_frozen_equals_prepared_and_keeps_no_original(name: str, tmp_path: Path) -> None:
    model = trained(name)
    frozen = tbt_compile.freeze(model)
    assert torch.equal(output(frozen), output(model))
    assert not [key for key in frozen.module.state_dict() if key.rpartition(".")[2].startswith(ORIGINALS)]
    frozen.save(tmp_path / "frozen")
    loaded = tbt_compile.load(tmp_path / "frozen", model=network(name))
    assert torch.equal(output(loaded), output(frozen))
    assert torch.equal(output(copy.deepcopy(frozen.module)), output(frozen))


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*deprecated in favor of:FutureWarning")
def test_the_prepared_model_is_left_alone(name: str) -> None:
    model = trained(name)
    tbt_compile.freeze(model)
    before = output(model)
    model.train()(X).sum().backward()
    assert torch.equal(output(model.eval()), before) or "spectral" in name  # its iteration goes on
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*deprecated in favor of:FutureWarning")
def test_the_plan_does_not_list_what_a_quantized_weight_is_computed_from(name: str) -> None:
    plan = tbt_compile.plan(network(name), "2-2-2", X)
    assert [site.fqn for site in plan] == ["0", "1", "3"]
    assert all("bias" in item.name for item in plan.unquantized)


def test_a_weight_that_an_unknown_hook_computes_is_refused() -> None:
    layer = nn.Linear(24, 16)
    original = layer.weight
    del layer.weight
    layer.register_parameter("master", original)
    layer.weight = original * 2
    layer.register_forward_pre_hook(lambda module, _: setattr(module, "weight", module.master * 2))
    model = tbt_compile.prepare(nn.Sequential(layer), "2-2-2", X)
    output(model)
    with pytest.raises(PlanError, match=r"weight of '0' is no parameter, .*parametrize"):
        tbt_compile.freeze(model)
