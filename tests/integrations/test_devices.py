"""A prepared model lives on the device that it is moved to: every tensor of a step is there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import FAMILIES, Classifier, batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tbt_compile


class OneDevice(TorchDispatchMode):
    """Refuses operators that take or make a tensor elsewhere.

    Where there is no accelerator, the device "meta" is one: its tensors have no values, so that nothing which
    reads a value runs there either.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and value.device.type != self.device:
                raise AssertionError(
                    f"{func} has a tensor on {value.device}, and the model is on {self.device}"
                )
        return result


def follows(model: nn.Module, inputs: dict[str, Tensor], loss: Callable[[Any], Tensor]) -> nn.Module:
    moved = copy.deepcopy(model).to("meta")
    assert {value.device.type for value in (*moved.parameters(), *moved.buffers())} == {"meta"}
    # transformers reads the values of a mask to see whether it is needed.
    given = {name: value.to("meta") for name, value in inputs.items() if name != "attention_mask"}
    with OneDevice("meta"):
        loss(moved(**given)).backward()
    return moved


@pytest.mark.parametrize(
    ("family", "recipe"),
    [("bart", "2-2-2"), ("t5", "1-1-8"), ("llama", "tbt-1-1-1"), ("opt", "8-8-8")],
)
def test_a_training_step_stays_on_the_device(family: str, recipe: str) -> None:
    model = tbt_compile.prepare(FAMILIES[family](layers=1), recipe)
    inputs = batch(model)
    model(**inputs)
    moved = follows(model.train(), inputs, lambda outputs: outputs.loss)
    found = {name: value.grad for name, value in moved.named_parameters() if value.grad is not None}
    assert {value.device.type for value in found.values()} == {"meta"}
    learned = recipe in ("2-2-2", "tbt-1-1-1")
    assert any(name.endswith("weight") for name in found)
    assert any(name.endswith(".scale") for name in found) or not learned


@pytest.mark.parametrize(
    "options", [{"weight_method": "scaled"}, {"initial_scale": "l2"}, {"activation_method": "statistical"}]
)
def test_every_method_stays_on_the_device(options: dict[str, str]) -> None:
    x = torch.randn(2, 5, 16)
    model = tbt_compile.prepare(Classifier(), tbt_compile.Recipe.parse("2-2-2", **options), x)
    model(x)
    follows(model, {"x": x}, lambda scores: scores.sum())


def test_a_frozen_model_follows_too() -> None:
    model = tbt_compile.prepare(FAMILIES["llama"](layers=1), "2-2-2")
    inputs = batch(model)
    model(**inputs)
    frozen = tbt_compile.freeze(model).module.to("meta")
    assert {value.device.type for value in (*frozen.parameters(), *frozen.buffers())} == {"meta"}
    assert frozen.lm_head.weight.device.type == "meta"
