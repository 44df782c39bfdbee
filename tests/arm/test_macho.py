"""The code of libraries for Macs, run without macOS: the same bits as on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from arm.environment import Environment
from arm.machine import variables
from torch import nn

import tbt_compile
from tbt_compile.codegen.target.host import missing_features
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.runtime.compiled_module import CompiledModule

PROGRAM = Path(__file__).with_name("macho.py")


class Layers(nn.Module):
    """Quantized layers and attention, whose kernels use threads and memory of TVM."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(70, 32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.norm(nn.functional.gelu(self.first(x)))
        return self.attention(states, states, states)[0].softmax(-1).exp()


@pytest.fixture(scope="module")
def prepared() -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(1)
    x = torch.randn(9, 5, 70)
    module = tbt_compile.prepare(Layers(), "2-2-8", (x,))
    module(x)  # which sets the scales of the activations
    return module, x.numpy()


@pytest.mark.parametrize("cpu", ["apple-m1", "apple-m4"])
def test_the_code_for_a_mac_computes_the_same_bits(
    cpu: str, prepared: tuple[nn.Module, np.ndarray], environment: Environment, tmp_path: Path
) -> None:
    if environment.emulator is None and missing_features(parse_target(f"{cpu} linux")):
        pytest.skip(f"this machine cannot run code for {cpu}")
    module, x = prepared
    here, mac = tbt_compile.lower(module), tbt_compile.lower(module, cpu)
    assert isinstance(here, CompiledModule) and isinstance(mac, CompiledModule)
    expected = np.asarray(here(x))
    mac._build.library.export(tmp_path / "model.dylib")
    names = mac.description["functions"]["forward"]
    tensors = {f"tensor_{index:03}": mac._tensors[name] for index, name in enumerate(names)}
    np.savez(tmp_path / "arrays.npz", x=x, y=expected, **tensors)
    done = subprocess.run(
        [*environment.command("max"), str(PROGRAM), str(tmp_path)],
        env={**os.environ, **variables(environment, tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    assert np.unique(found).size > 1000, "comparing constants would be worth nothing"
