"""Size and operations against sums by hand, and the entropy of weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from training.small import model

import tbt_compile
from tbt_compile.reproduce.cost import Product, float_mib, packed_mib, products, relative_flops
from tbt_compile.reproduce.entropy import layer_entropies
from tbt_compile.training.methods import get_method

# The model of training.small: width, inner width, heads.
D, INNER, S, T = 16, 32, 7, 5


def test_products_are_those_of_the_layers() -> None:
    teacher = model()
    student = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-8")
    found = products(student, S, T)
    encoder = 4 * S * D * D + 2 * S * S * D + 2 * S * D * INNER
    decoder = 4 * T * D * D + 2 * T * T * D + 2 * T * D * INNER
    crossing = 2 * T * D * D + 2 * S * D * D + 2 * S * T * D
    head = T * D * teacher.config.vocab_size
    assert sum(product.multiplications for product in found) == encoder + decoder + crossing + head
    assert Product(T * D * teacher.config.vocab_size, (8, 2)) in found
    attention = 2 * S * S * D + 2 * T * T * D + 2 * S * T * D
    linear = encoder + decoder + crossing + head - attention
    # The products of attention have 8 bits on both sides, all others 2 on one.
    expected = (linear * 16 + attention * 64) / 64 / (linear + attention)
    assert relative_flops(teacher, student, S, T) == pytest.approx(expected)


def test_what_is_left_in_full_precision_counts_whole() -> None:
    assert Product(100, (32, 2)).operations == 100
    assert Product(100, (1, 1)).operations == 100 / 64


def test_sizes_are_those_of_the_files() -> None:
    teacher = model()
    student = tbt_compile.prepare(copy.deepcopy(teacher), "1-1-1").eval()
    ids = torch.tensor([[4, 5, 6]])
    student(input_ids=ids, labels=ids)
    weights = sum(parameter.numel() for parameter in teacher.parameters())
    assert float_mib(teacher) == pytest.approx(4 * weights / 2**20)
    assert weights / 8 / 2**20 < packed_mib(student) < float_mib(teacher)


def test_the_entropy_of_every_linear_layer() -> None:
    teacher = model()
    found = {
        name: layer_entropies(tbt_compile.prepare(copy.deepcopy(teacher), get_method(name).recipe("2-2-2")))
        for name in ("tbt", "twn")
    }
    linears = [name for name, module in teacher.named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(found["tbt"]) == sorted(found["twn"]) == sorted(linears)
    weight = teacher.model.encoder.layers[0].fc1.weight.detach()
    threshold = 0.7 * weight.abs().mean(-1, keepdim=True)
    counts = [int((weight > threshold).sum()), int((weight < -threshold).sum())]
    shares = [count / weight.numel() for count in (*counts, weight.numel() - sum(counts))]
    by_hand = -sum(share * math.log2(share) for share in shares)
    assert found["twn"]["model.encoder.layers.0.fc1"] == pytest.approx(by_hand, abs=1e-6)
    assert all(0 < entropy <= math.log2(3) for entropy in found["tbt"].values())
