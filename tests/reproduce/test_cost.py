"""Size and operations against sums by hand, and the entropy of weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from training.small import model

import tbt_compile
from tbt_compile.inspection.entropy import layer_entropies
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.reproduce.cost import Product, products, relative_flops
from tbt_compile.reproduce.size import counted_mib, float_mib, size_mib
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


def run(student: torch.nn.Module) -> torch.nn.Module:
    """The student after one pass, which sets its scales."""
    ids = torch.tensor([[4, 5, 6]])
    student.eval()(input_ids=ids, labels=ids)
    return student


def test_sizes_are_those_of_the_files() -> None:
    teacher = model()
    weights = sum(parameter.numel() for parameter in teacher.parameters())
    assert float_mib(teacher) == pytest.approx(4 * weights / 2**20)
    for notation in ("1-1-1", "2-2-2", "8-8-8"):
        student = run(tbt_compile.prepare(copy.deepcopy(teacher), notation))
        # The file has a header too, and names.
        assert counted_mib(student) < size_mib(student) < counted_mib(student) + 0.02


def test_a_pruned_model_counts_by_the_blocks_that_are_left() -> None:
    teacher = model()
    recipe = get_method("blockpruning").recipe("1-1-8")
    student = run(tbt_compile.prepare(copy.deepcopy(teacher), recipe))
    whole = size_mib(student)
    assert whole == pytest.approx(float_mib(teacher), rel=0.02)
    # The embedding of the padding token is zero from the start.
    assert relative_flops(teacher, student, S, T) == pytest.approx(1.0, abs=2e-3)
    for module in student.modules():
        if isinstance(module, BlockPruner) and "density" in module._buffers:
            module.density.fill_(0.25)
    assert 0.2 * whole < size_mib(student) < 0.5 * whole
    assert 0.2 < relative_flops(teacher, student, S, T) < 0.5


def test_a_split_weight_is_two_binary_ones() -> None:
    teacher = model()
    recipe = get_method("binarybert").recipe("1-1-1")
    student = run(tbt_compile.prepare(copy.deepcopy(teacher), recipe))
    plain = run(tbt_compile.prepare(copy.deepcopy(teacher), "1-1-1"))
    extra = sum(
        module.out_features * (8 * math.ceil(module.in_features / 64) + 4)
        for name, module in teacher.named_modules()
        if name.endswith((".fc1", ".fc2"))
    )
    assert size_mib(student) - counted_mib(plain) == pytest.approx(extra / 2**20)
    doubled = 2 * (S + T) * D * INNER
    difference = sum(product.operations for product in products(student, S, T)) - sum(
        product.operations for product in products(plain, S, T)
    )
    assert difference == pytest.approx(doubled / 64)


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
