"""The precision of matrix products in training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.backends.cuda import flash_sdp_enabled
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from tbt_compile.training import TrainingError, precision, processes
from tbt_compile.training.precision import PRECISIONS, matmul_precision, product_format


@pytest.mark.parametrize("name", PRECISIONS)
def test_it_holds_while_it_lasts(name: str) -> None:
    before = torch.get_float32_matmul_precision()
    with matmul_precision(name):
        assert torch.get_float32_matmul_precision() == name
    assert torch.get_float32_matmul_precision() == before


def test_an_error_ends_it_too() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmul_precision("medium"):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_an_unknown_one_is_named() -> None:
    message = "'hihg'.*expected one of highest, high, medium.* Did you mean high"
    with pytest.raises(TrainingError, match=message), matmul_precision("hihg"):
        raise AssertionError


def test_the_highest_is_float32() -> None:
    with matmul_precision("highest"):
        assert product_format() == "float32"


def bfloat16(factor: Tensor) -> Tensor:
    return factor.bfloat16().float()


def tf32(factor: Tensor) -> Tensor:
    return (factor.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("rounded", [bfloat16, tf32])
def test_the_format_is_seen_in_a_product(
    rounded: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "__matmul__", lambda left, right: rounded(left).mm(rounded(right)))
    assert product_format() == rounded.__name__


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("medium", "float32", True),
        ("medium", "bfloat16", False),
        ("high", "tf32", False),
        ("highest", "float32", False),
    ],
)
def test_a_precision_that_the_machine_does_not_have_is_said(
    name: str, found: str, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "product_format", lambda: found)
    with matmul_precision(name):
        pass
    assert ("precision 'medium' of matrix products has no effect" in caplog.text) == said


@pytest.mark.parametrize(
    ("name", "found", "whole"),
    [("medium", "bfloat16", True), ("high", "tf32", False), ("highest", "float32", False)],
)
def test_attention_in_bfloat16_is_computed_by_whole_products_on_a_cpu(
    name: str, found: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "product_format", lambda: found)
    monkeypatch.setattr(processes, "device", lambda: torch.device("cpu"))
    query = torch.ones(1, 2, 4, 8)
    with matmul_precision(name), profile(activities=[ProfilerActivity.CPU]) as seen:
        scaled_dot_product_attention(query, query, query)
    operators = {event.key for event in seen.key_averages()}
    assert ("aten::_scaled_dot_product_attention_math" in operators) == whole
    assert flash_sdp_enabled()
