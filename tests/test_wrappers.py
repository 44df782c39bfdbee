"""Models in the wrappers of training code, with adapters, sharded, or composed of others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from models import MLP, bart, batch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import tbt_compile
from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.errors import PlanError
from tbt_compile.modules import is_prepared
from tbt_compile.training import TrainingError
from tbt_compile.training.label_trainer import whole_model

X = torch.randn(4, 8)


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.filterwarnings("ignore")  # dynamo's own, about what it does not trace
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, AveragedModel, compiled, lambda m: compiled(nn.DataParallel(m))]
)
def test_the_model_inside_is_prepared_and_frozen(wrap: Any) -> None:
    wrapper = wrap(MLP().eval())
    inner = unwrapped(wrapper)
    assert type(inner) is MLP
    assert tbt_compile.plan(wrapper, "2-2-2", X).to_dict() == tbt_compile.plan(inner, "2-2-2", X).to_dict()
    wrapper(X)
    assert tbt_compile.prepare(wrapper, "2-2-2", X) is wrapper
    assert torch.equal(wrapper(X), inner(X))
    frozen = tbt_compile.freeze(wrapper)
    assert isinstance(frozen.module, MLP)
    assert torch.equal(frozen.module(X), inner(X))
    with pytest.raises(PlanError, match="this MLP is prepared already"):
        tbt_compile.prepare(wrapper, "2-2-2", X)


@pytest.mark.usefixtures("group")
def test_gradients_of_new_scales_are_reduced() -> None:
    wrapper = DistributedDataParallel(MLP())
    assert tbt_compile.prepare(wrapper, "2-2-2", X) is wrapper
    counted = wrapper._get_ddp_logging_data()["num_parameter_tensors"]
    assert counted == len(list(wrapper.module.parameters())) == 6
    wrapper.eval()
    wrapper(X).sum().backward()
    alone = copy.deepcopy(wrapper.module)
    alone.zero_grad()
    alone(X).sum().backward()
    for name, parameter in alone.named_parameters():
        assert torch.equal(parameter.grad, wrapper.module.get_parameter(name).grad), name


@pytest.mark.usefixtures("group")
def test_a_wrapper_of_another_group_is_made_afterwards() -> None:
    wrapper = DistributedDataParallel(MLP(), process_group=dist.new_group([0]))
    with pytest.raises(PlanError, match="prepare the model first, then wrap it"):
        tbt_compile.prepare(wrapper, "2-2-2", X)
    assert not is_prepared(wrapper)


def test_wrappers_of_training_libraries() -> None:
    engine = _of("deepspeed.runtime.engine", "DeepSpeedEngine", module=MLP())
    assert type(unwrapped(engine)) is MLP
    assert tbt_compile.plan(engine, "2-2-2", X).model == "MLP"
    with pytest.raises(
        PlanError, match="this DeepSpeedEngine was made for the parameters of the full-precision"
    ):
        tbt_compile.prepare(engine, "2-2-2", X)
    own = _of("my.package", "Scaled", module=MLP())  # its forward may do more than call the module
    assert unwrapped(own) is own


def test_adapters_have_to_be_merged() -> None:
    class PeftModel(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.base_model = model

        def merge_and_unload(self) -> nn.Module:
            return self.base_model

    class LoraLayer(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.base_layer, self.lora_A = layer, nn.Linear(8, 2, bias=False)

        def merge(self) -> None:
            """PEFT's."""

    for function in (tbt_compile.plan, tbt_compile.prepare):
        with pytest.raises(
            PlanError, match=r"adapters that are not merged: pass what model.merge_and_unload\(\)"
        ):
            function(PeftModel(MLP()), "2-2-2", X)
    model: Any = MLP()
    model.first = LoraLayer(model.first)
    with pytest.raises(PlanError, match=r"first in this MLP is a layer with an adapter \(LoraLayer\)"):
        tbt_compile.prepare(nn.DataParallel(model), "2-2-2", X)


def test_sharded_parameters_are_refused() -> None:
    sharded = _of("torch.distributed.fsdp", "FullyShardedDataParallel", module=MLP())
    with pytest.raises(PlanError, match="the parameters of this FullyShardedDataParallel are sharded"):
        tbt_compile.prepare(sharded, "2-2-2", X)
    with pytest.raises(PlanError, match="are sharded"):
        tbt_compile.freeze(sharded)


def test_training_takes_wrapped_models() -> None:
    model = bart(layers=1)
    assert whole_model(nn.DataParallel(model)) is model
    with pytest.raises(TrainingError, match="a MLP cannot be trained here: expected a transformers model"):
        whole_model(MLP())
    wrapper = tbt_compile.prepare(nn.DataParallel(model))
    assert unwrapped(wrapper) is model
    wrapper(**batch(model)).loss.backward()


def _of(package: str, name: str, **children: nn.Module) -> nn.Module:
    """A module whose class seems to come from a library that is not installed."""

    def forward(self: Any, *args: Tensor) -> Any:
        return self.module(*args)

    made = type(name, (nn.Module,), {"__module__": package, "forward": forward})()
    for child, module in children.items():
        made.add_module(child, module)
    return made
