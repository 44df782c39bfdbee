"""Quantize a plain PyTorch module; data-flow analysis finds which activations are non-negative."""

from __future__ import annotations

import torch
from torch import nn

import tbt_compile


def build_model() -> nn.Module:
    """Two linear layers with a ReLU between them, whose output is non-negative."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def main() -> None:
    """Plan, prepare, train for a few steps and freeze."""
    torch.manual_seed(0)
    model, x = build_model(), torch.randn(32, 64)
    target = torch.randint(0, 10, (32,))
    print(tbt_compile.plan(model, "1-1-1", example_inputs=(x,)))

    model = tbt_compile.prepare(model, recipe="1-1-1", example_inputs=(x,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(51):
        loss = nn.functional.cross_entropy(model(x), target)
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    frozen = tbt_compile.freeze(model.eval())
    print(frozen)
    assert torch.equal(frozen(x), model(x))


if __name__ == "__main__":
    main()
