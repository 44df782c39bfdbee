"""Quantize a plain PyTorch module: the sign of each activation is found by data flow."""

from __future__ import annotations

import torch
from torch import nn

import tbt_compile


def build_model() -> nn.Module:
    """Two layers with a ReLU between them, whose output is never negative."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def main() -> None:
    """Plan, prepare, train a few steps and pack."""
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
