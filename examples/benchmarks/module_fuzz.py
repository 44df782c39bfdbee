"""Random modules: what is compiled computes what the frozen module computes, or is refused by name.

    python examples/benchmarks/module_fuzz.py --count 500
    python examples/benchmarks/module_fuzz.py --first 120 --count 1      # one module again, printed

A module is a random chain of parts: linear layers, functional and parametrized ones, products with
parameters, einsum, attention with every option, convolutions, norms, activations, residuals, and parts that
are used twice.
Outcomes:

*equal*      bit for bit: the module and its reference graph; the prepared and the frozen module, with the
             floats of PyTorch; the frozen model, with the floats of compiled code, and the compiled module
*refused*    an error of this package that names a module or an operator
*different*  anything else

The exit status is 1 if a module is *different*.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from stages import compare
from torch import Tensor, nn

from tbt_compile import Recipe

ROWS, TOKENS, WIDTH, HEADS = 2, 6, 16, 2
RECIPES = ("2-2-2", "1-1-1", "2-2-8", "1-1-8", "8-2-2")
Part = Callable[[Random], nn.Module]


class Apply(nn.Module):
    """A function with parameters, applied to x [B, T, D]."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(shape) * 0.3) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


class Attention(nn.Module):
    """Self-attention in one of many spellings."""

    def __init__(self, spelling: str, random: Random) -> None:
        super().__init__()
        self.spelling = spelling
        self.causal, self.masked = random.random() < 0.4, random.random() < 0.5
        self.boolean, self.scale = random.random() < 0.5, random.choice([None, 0.2])
        self.groups = random.choice([1, 2]) if spelling == "sdpa" else 1
        self.query = nn.Linear(WIDTH, WIDTH)
        self.rest = nn.Linear(WIDTH, 2 * WIDTH // self.groups, bias=random.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        width = WIDTH // HEADS
        query = self.query(x).unflatten(-1, (HEADS, width))
        key, value = self.rest(x).unflatten(-1, (2, HEADS // self.groups, width)).unbind(2)
        if self.spelling == "einsum":
            weights = torch.einsum("bihd,bjhd->bhij", query, key).softmax(-1)
            return torch.einsum("bhij,bjhd->bihd", weights, value).flatten(2)
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        if self.spelling == "sdpa":
            mask = None
            if self.masked and not self.causal:
                kept = (torch.arange(x.shape[1], device=x.device) < x.shape[1] - 1)[None]
                mask = kept if self.boolean else torch.where(kept, 0.0, -2.0)
            options = {"is_causal": self.causal, "scale": self.scale, "enable_gqa": self.groups > 1}
            mixed = F.scaled_dot_product_attention(query, key, value, mask, **options)
        elif self.spelling == "baddbmm":
            query, key, value = (each.flatten(0, 1) for each in (query, key, value))
            bias = query.new_zeros(1, 1, 1)
            mixed = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=0.3).softmax(-1).bmm(value)
            mixed = mixed.unflatten(0, (-1, HEADS))
        else:
            mixed = (query @ key.transpose(-2, -1) * 0.3).softmax(-1) @ value
        return mixed.transpose(1, 2).flatten(2)


class MultiHead(nn.Module):
    """`nn.MultiheadAttention` with random options."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        options = {"bias": random.random() < 0.7, "add_bias_kv": random.random() < 0.3}
        options |= {"add_zero_attn": random.random() < 0.3, "batch_first": random.random() < 0.7}
        self.padded, self.weights = random.random() < 0.5, random.random() < 0.5
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, **options)

    def forward(self, x: Tensor) -> Tensor:
        last = torch.arange(x.shape[1], device=x.device) == x.shape[1] - 1
        padding = last.expand(x.shape[0], -1) if self.padded else None
        x = x if self.inner.batch_first else x.transpose(0, 1)
        y = self.inner(x, x, x, key_padding_mask=padding, need_weights=self.weights)[0]
        return y if self.inner.batch_first else y.transpose(0, 1)


class Transposed(nn.Module):
    """A convolution over the tokens."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        options = {"dilation": random.choice([1, 2]), "groups": random.choice([1, 1, 2])}
        mode, bias = random.choice(["zeros", "circular"]), random.random() < 0.7
        kernel = random.choice([1, 3])
        self.inner = nn.Conv1d(WIDTH, WIDTH, kernel, padding="same", padding_mode=mode, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Residual(nn.Module):
    """x + inner(x), or inner(inner(x))."""

    def __init__(self, inner: nn.Module, twice: bool) -> None:
        super().__init__()
        self.inner, self.twice = inner, twice

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x)) if self.twice else x + self.inner(x)


def _square(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


LINEAR: tuple[Part, ...] = (
    lambda random: nn.Linear(WIDTH, WIDTH, bias=random.random() < 0.5),
    lambda _: nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, WIDTH)),
    lambda _: Apply(F.linear, (WIDTH, WIDTH), (WIDTH,)),
    lambda _: Apply(_square, (WIDTH, WIDTH)),
    lambda _: Apply(lambda x, w: x @ w.t(), (WIDTH, WIDTH)),
    lambda _: Apply(lambda x, w: (w @ x.transpose(1, 2)).transpose(1, 2), (WIDTH, WIDTH)),
    lambda _: Apply(
        lambda x, w: torch.einsum("btk,hdk->bthd", x, w).flatten(2), (HEADS, WIDTH // HEADS, WIDTH)
    ),
    lambda _: Apply(lambda x, w: torch.einsum("...k,nk->...n", x, w), (WIDTH, WIDTH)),
    lambda _: Apply(lambda x, b, w: torch.addmm(b, x.flatten(0, 1), w).view_as(x), (WIDTH,), (WIDTH, WIDTH)),
    lambda _: Apply(lambda x, w: F.linear(x, torch.cat([w[:8], w[8:] * 2])), (WIDTH, WIDTH)),
    lambda _: Apply(
        lambda x, w: (x.unflatten(-1, (2, 8)).transpose(1, 2) @ w).transpose(1, 2).flatten(2), (2, 8, 8)
    ),
    lambda _: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    lambda _: nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)).eval(),
)
ATTENTION: tuple[Part, ...] = (
    *(
        lambda random, name=name: Attention(name, random)
        for name in ("matmul", "einsum", "baddbmm", "sdpa", "sdpa")
    ),
    MultiHead,
    lambda random: nn.TransformerEncoderLayer(
        WIDTH, HEADS, 24, dropout=0.0, batch_first=True, norm_first=random.random() < 0.5
    ),
)
OTHER: tuple[Part, ...] = (
    lambda random: random.choice(
        [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Mish, nn.Hardswish, nn.ELU]
    )(),
    lambda random: random.choice([nn.LayerNorm, nn.RMSNorm])(WIDTH),
    Transposed,
    lambda _: Apply(lambda x, w, b: F.conv2d(x[:, None], w, b, padding=1).mean(1), (4, 1, 3, 3), (4,)),
    lambda _: Apply(lambda x, w: x * torch.sigmoid(w) + x.mean(1, keepdim=True), (WIDTH,)),
    lambda _: Apply(lambda x: F.softmax(x, 1) * x.amax(-1, keepdim=True)),
)


def part(random: Random) -> nn.Module:
    """A random part, [B, T, D] to [B, T, D]."""
    family = random.choices([LINEAR, ATTENTION, OTHER], [5, 4, 3])[0]
    made = random.choice(family)(random)
    return Residual(made, random.random() < 0.4) if random.random() < 0.3 else made


def random_module(seed: int) -> tuple[nn.Module, Recipe]:
    """A random chain of parts that starts with a linear layer, in evaluation mode, and a recipe."""
    random = Random(seed)
    torch.manual_seed(seed)
    parts = [nn.Linear(WIDTH, WIDTH), *(part(random) for _ in range(random.randint(1, 3)))]
    return nn.Sequential(*parts).eval(), Recipe.parse(random.choice(RECIPES), conv=random.random() < 0.5)


def outcome(seed: int, compiled: bool = True) -> tuple[str, str]:
    """Try one module.

    Args:
        seed: of the module.
        compiled: whether it is also compiled.

    Returns:
        "equal", "refused" or "different", and what was wrong.
    """
    module, recipe = random_module(seed)
    return compare(module, recipe, [torch.randn(ROWS, TOKENS, WIDTH)], compiled=compiled)


def main() -> int:
    """Try modules and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="number of modules")
    parser.add_argument("--first", type=int, default=0, help="seed of the first module")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: Counter[str] = Counter()
    notes = {}
    for seed in range(options.first, options.first + options.count):
        result, why = outcome(seed, not options.eager)
        found[result] += 1
        if why:
            notes[seed] = f"{result}: {why}"
        if result != "equal" or options.count == 1:
            print(f"{seed}: {result}: {why}", flush=True)
        if options.count == 1:
            print(*random_module(seed))
        if (seed + 1 - options.first) % 25 == 0:
            print(f"{seed + 1 - options.first} of {options.count}: {dict(found)}", flush=True)
    print(dict(found))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"outcomes": found, "notes": notes}, indent=2) + "\n", encoding="utf-8"
        )
    return int(found["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
