"""The registry of methods, and one short training run per method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training.small import LENGTHS, PAIRS, SETTINGS, model, tokenizer

from tbt_compile.errors import MethodError
from tbt_compile.modules import iter_quantized
from tbt_compile.recipe import Recipe
from tbt_compile.training.methods import METHODS, get_method


def test_an_unknown_method_is_refused_with_near_matches() -> None:
    with pytest.raises(MethodError, match=r"unknown method 'tnw': expected one of tbt, .*Did you mean twn"):
        get_method("tnw")


def test_bits_that_a_method_does_not_support_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="'twn' does not support '1-1-1': expected one of 2-2-8, 2-2-2"):
        get_method("twn").train_student(model(), "1-1-1", PAIRS, tokenizer(), tmp_path, **LENGTHS)
    assert list(tmp_path.iterdir()) == []


def test_the_ablation_exchanges_one_part_each() -> None:
    tbt, twn = get_method("tbt").recipe("2-2-2"), get_method("twn").recipe("2-2-2")
    assert twn == Recipe.parse("twn-2-2-2")
    assert get_method("bwn").recipe("1-1-8") == Recipe.parse("bwn-1-1-8")
    weights, activations = (
        ("weight_method", "center_weights", "ste"),
        ("activation_method", "center_activations"),
    )
    for name, of_tbt in (("ablation-activations", activations), ("ablation-weights", weights)):
        values = get_method(name).recipe("2-2-2").to_dict()
        for field, value in values.items():
            assert value == (tbt if field in of_tbt else twn).to_dict()[field], (name, field)


@pytest.mark.parametrize("name", METHODS)
def test_a_student_trains_and_generates(name: str, tmp_path: Path) -> None:
    method = get_method(name)
    notation = method.notations[-1]
    teacher = model()
    student = method.train_student(
        teacher, notation, PAIRS, tokenizer(), tmp_path / "student", settings=SETTINGS, **LENGTHS
    )
    assert next(iter_quantized(student), None) is not None
    assert not student.training
    ids = tokenizer()(PAIRS[0].source, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.isfinite(student(input_ids=ids, labels=ids).logits).all()
        written = student.generate(ids, max_new_tokens=4)
    assert written.shape[0] == 1
    again = method.train_student(
        teacher, notation, PAIRS, tokenizer(), tmp_path / "student", settings=SETTINGS, **LENGTHS
    )
    with torch.no_grad():
        assert torch.equal(again.generate(ids, max_new_tokens=4), written)
