"""State of quantizers keeps its dtype and its bits, whatever the model is converted to."""

from __future__ import annotations

import torch
from torch import nn

from tbt_compile.quantizers.state import Float32State


class State(Float32State):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1234567]))
        self.free = nn.Parameter(torch.zeros(2, 3))
        self.register_parameter("none", None)
        self.register_buffer("ready", torch.tensor(True))
        self.register_buffer("wide", torch.tensor([0.1], dtype=torch.float64))


def test_float32_stays_and_the_rest_is_converted() -> None:
    state = nn.Sequential(State(), nn.Linear(2, 2)).to(torch.bfloat16)
    assert state[0].scale.dtype is torch.float32
    assert state[0].scale.tolist() == torch.tensor([0.1234567]).tolist()
    assert state[0].wide.dtype is torch.bfloat16
    assert state[0].ready.dtype is torch.bool
    assert state[1].weight.dtype is torch.bfloat16
    state.half().double()
    assert state[0].scale.dtype is torch.float32


def test_it_follows_to_other_devices() -> None:
    state = State()
    state.inner = nn.Linear(2, 2)
    moved = state.to("meta")
    assert moved.inner.weight.device.type == "meta"
    assert moved.scale.device.type == "meta" and moved.scale.dtype is torch.float32
    assert moved.ready.device.type == "meta"


def test_only_scalars_of_vectors_are_reshaped_when_loaded() -> None:
    saved = State().state_dict()
    state = State()
    state.load_state_dict({**saved, "scale": torch.tensor(0.5), "wide": torch.ones(1, dtype=torch.float64)})
    assert state.scale.tolist() == [0.5]
    outer = nn.ModuleDict({"inner": State()})
    outer.load_state_dict(
        {f"inner.{name}": value for name, value in {**saved, "scale": torch.tensor(2.0)}.items()}
    )
    assert outer["inner"].scale.tolist() == [2.0]
    found = outer.load_state_dict({}, strict=False)
    assert "inner.scale" in found.missing_keys
