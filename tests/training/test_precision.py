"""The precision of matrix products in training."""

from __future__ import annotations

import pytest
import torch

from tbt_compile.training import TrainingError
from tbt_compile.training.precision import PRECISIONS, matmul_precision


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
