"""A failed capture in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tbt_compile.passes.capture_errors import explained
from tbt_compile.passes.export import export_program


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_a_branch_on_values_is_named_in_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Decides())
    with pytest.raises(Exception, match="data-dependent") as caught:
        export_program(model, (torch.randn(3, 4),))
    sentence = explained(caught.value, model)
    assert sentence.startswith("module '1' (Decides) (test_capture_errors.py:")
    assert "return x * 2 if x.sum() > 0 else x) goes one way or another by the values" in sentence
    assert "\n" not in sentence
    assert capfd.readouterr() == ("", "")


@dataclass
class Result:
    scores: Tensor


class ReturnsAnObject(nn.Linear):
    def forward(self, x: Tensor) -> Result:  # type: ignore[override]
        return Result(super().forward(x))


def test_a_result_of_a_plain_class_is_named() -> None:
    model = ReturnsAnObject(4, 4)
    with pytest.raises(Exception, match="not a known type") as caught:
        export_program(model, (torch.randn(3, 4),))
    assert explained(caught.value, model) == (
        "its forward returns an object of the class Result: return tensors and constants in tuples, "
        "NamedTuples, lists or dicts"
    )


class Packs(nn.GRU):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return super().forward(packed)[0].data


def test_packed_sequences_are_named() -> None:
    model = nn.ModuleDict({"rnn": Packs(4, 4, batch_first=True)})
    with pytest.raises(Exception, match="zeros") as caught:
        export_program(model["rnn"], (torch.randn(2, 5, 4), torch.tensor([5, 3])))
    sentence = explained(caught.value, model)
    assert sentence.startswith("module 'rnn' (Packs) (test_capture_errors.py:")
    assert "runs on packed sequences (`pack_padded_sequence`)" in sentence
    assert "pass it the padded tensor" in sentence


def test_of_other_errors_the_first_line_is_left() -> None:
    assert explained(ArithmeticError("one\ntwo"), nn.Identity()) == "its forward: one"
    assert explained(ArithmeticError(), nn.Identity()) == "its forward: ArithmeticError"
