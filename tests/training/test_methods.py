"""The registry of methods, and one short training run per method."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.small import PAIRS, SETTINGS, SIZE, corpus, model, tokenizer
from training.test_resume import Killed, kill_at, require_equal
from transformers import PreTrainedModel

from tbt_compile import freeze, lower, prepare
from tbt_compile.errors import LoweringError, MethodError, PlanError
from tbt_compile.modules import iter_quantized
from tbt_compile.quantizers.pruned import BlockPruner
from tbt_compile.recipe import Recipe
from tbt_compile.training import TrainingError, TrainingRun, TrainSettings, new_model
from tbt_compile.training.methods import METHODS, get_method
from tbt_compile.training.methods.binarybert import narrow_copy, split_copy
from tbt_compile.training.methods.blockpruning import (
    BlockPruningMethod,
    matched_density,
    packed_bytes,
    scheduled_density,
)
from tbt_compile.training.methods.layers import layer_map, reduced_copy


def test_an_unknown_method_is_refused_with_near_matches() -> None:
    with pytest.raises(MethodError, match=r"unknown method 'tnw': expected one of tbt, .*Did you mean twn"):
        get_method("tnw")


def test_bits_that_a_method_does_not_support_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="'twn' does not support '1-1-1': expected one of 2-2-8, 2-2-2"):
        get_method("twn").train_student(model(), "1-1-1", corpus(), TrainingRun(tmp_path))
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


QUICK = replace(SETTINGS, steps=4, batch_size=2, save_every=2)
# The published students of DQ-BART need a teacher with six layers; the same code makes one with 1-1 of 2-2.
TRAINED = [*(name for name in METHODS if not name.startswith("dq-bart-")), "dq-bart-1-1"]


def teacher(layers: int = 1) -> PreTrainedModel:
    return new_model(replace(SIZE, layers=layers), tokenizer(), max_length=40)


def train(name: str, folder: Path, **options: Any) -> PreTrainedModel:
    method = get_method(name)
    steps, batch = QUICK.steps // method.updates, QUICK.batch_size * method.updates
    if isinstance(method, BlockPruningMethod):
        method = replace(method, block=4)
    of = teacher(2 if name == "dq-bart-1-1" else 1)
    run = TrainingRun(folder, **{"settings": replace(QUICK, steps=steps, batch_size=batch), **options})
    return method.train_student(of, method.notations[-1], corpus(), run)


@pytest.mark.parametrize("name", TRAINED)
def test_a_student_trains_and_generates_and_is_loaded_the_second_time(name: str, tmp_path: Path) -> None:
    student = train(name, tmp_path)
    assert not student.training
    hooks = [hook for module in student.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in hooks if "Watch" in getattr(hook, "__qualname__", "")]
    record = json.loads((tmp_path / "training.json").read_text())
    assert math.isfinite(record["outcome"]["loss"])
    ids = tokenizer()(PAIRS[0].source, return_tensors="pt").input_ids
    again = train(name, tmp_path)
    with torch.no_grad():
        logits = student(input_ids=ids, labels=ids).logits
        assert torch.isfinite(logits).all()
        assert torch.equal(again(input_ids=ids, labels=ids).logits, logits)
        assert again.generate(ids, max_new_tokens=4).shape[0] == 1


@pytest.mark.parametrize(
    ("name", "kills"),
    [("blockpruning", [3]), ("binarybert", [2, 2]), ("tbt-staged", [2, 2]), ("tbt+-staged", [2, 2])],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    name: str, kills: list[int], tmp_path: Path
) -> None:
    whole = train(name, tmp_path / "whole")
    for step in kills:  # of both stages, where there are two: each has two steps
        with pytest.raises(Killed):
            train(name, tmp_path / "killed", progress=kill_at(step))
        torch.manual_seed(99)
    require_equal(whole, train(name, tmp_path / "killed"))


def test_another_method_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train("twn", tmp_path, progress=kill_at(1))
    with pytest.raises(TrainingError, match="holds a run with"):
        train("ternarybert", tmp_path)


def test_the_shallow_student_starts_from_the_chosen_layers() -> None:
    deep = teacher(3)
    shallow = reduced_copy(deep, layer_map(deep, 2, 1))
    ours, theirs = shallow.state_dict(), deep.state_dict()
    assert torch.equal(ours["model.encoder.layers.1.fc1.weight"], theirs["model.encoder.layers.2.fc1.weight"])
    assert torch.equal(ours["model.decoder.layers.0.fc1.weight"], theirs["model.decoder.layers.2.fc1.weight"])
    assert torch.equal(ours["model.shared.weight"], theirs["model.shared.weight"])
    assert "model.decoder.layers.1.fc1.weight" not in ours
    with pytest.raises(MethodError, match="a student with 6 encoder layers of a teacher with 3"):
        layer_map(deep, 6, 1)


def test_the_narrow_copy_keeps_the_neurons_that_matter() -> None:
    wide = teacher()
    layer = wide.model.encoder.layers[0]
    with torch.no_grad():
        layer.fc1.weight[3] *= 100
        layer.fc1.weight[5] *= 1e-4
    narrow = narrow_copy(wide).model.encoder.layers[0]
    assert narrow.fc1.weight.shape == (SIZE.inner // 2, SIZE.width)
    kept = [row.tolist() for row in narrow.fc1.weight]
    assert layer.fc1.weight[3].tolist() in kept
    assert layer.fc1.weight[5].tolist() not in kept


def test_splitting_changes_no_value_of_the_ternary_student() -> None:
    narrow = narrow_copy(teacher())
    ternary = prepare(copy.deepcopy(narrow), Recipe.parse("2-2-32", weight_method="l2", center_weights=False))
    recipe = Recipe.parse("1-1-32", weight_method="l2", center_weights=False, split=("*.fc1", "*.fc2"))
    binary = split_copy(ternary, narrow, recipe)
    x = torch.randn(2, 3, SIZE.width)
    ours, theirs = (model.model.decoder.layers[0].fc1 for model in (binary, ternary))
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


def test_pruned_blocks_take_as_much_as_the_low_bit_model() -> None:
    model = teacher()
    density = matched_density(model, "1-1-8", block=4)
    pruned = prepare(copy.deepcopy(model), Recipe.parse("32-32-32", weight_method="pruned", block=4))
    frozen = prepare(model, "1-1-8")
    packed = {
        id(module.weight): packed_bytes(module.weight, module.weight_quantizer.encoding)
        for _, module in iter_quantized(frozen)
        if hasattr(module, "weight_quantizer")
    }
    pruners = [module for module in pruned.modules() if isinstance(module, BlockPruner)]
    leaders = [module for module in pruners if "scores" in module._parameters]
    for module in leaders:
        module.density.fill_(density)
    blocks = sum(module.scores.numel() for module in leaders)
    taken = sum(64 * module.kept for module in leaders) + blocks / 8
    assert taken == pytest.approx(sum(packed.values()), rel=0.1)


def test_the_schedule_of_pruning_ends_at_the_density_that_was_asked_for() -> None:
    for steps in (1, 2, 7, 1000):
        densities = [scheduled_density(step, steps, 0.05) for step in range(steps)]
        assert densities == sorted(densities, reverse=True)
        assert densities[-1] == 0.05


def run_once(recipe: Recipe) -> tuple[PreTrainedModel, torch.Tensor]:
    prepared = prepare(teacher(), recipe).eval()
    ids = torch.randint(5, 30, (2, 6))
    with torch.no_grad():
        prepared(input_ids=ids, labels=ids)
    return prepared, ids


@pytest.mark.parametrize("options", [{"weight_method": "pruned", "block": 4}, {"split": ("*.fc1",)}])
def test_weights_without_a_packed_form_are_not_frozen(options: dict[str, Any]) -> None:
    prepared, _ = run_once(Recipe.parse("32-32-32" if "block" in options else "1-1-8", **options))
    with pytest.raises(PlanError, match="pruned in blocks or split in two.*run the prepared model itself"):
        freeze(prepared)


def test_learned_clips_are_frozen() -> None:
    prepared, ids = run_once(get_method("quantbart").recipe("2-2-8"))
    with torch.no_grad():
        expected = prepared(input_ids=ids, labels=ids).logits
        assert torch.equal(freeze(prepared).module(input_ids=ids, labels=ids).logits, expected)


def test_what_has_no_compiled_form_is_refused_by_name() -> None:
    prepared, _ = run_once(get_method("bibert").recipe("1-1-1"))
    with pytest.raises(LoweringError, match=r"no compiled operator takes .*model\.encoder\.layers\.0\.fc1"):
        lower(prepared)


def test_a_method_may_make_more_updates_with_the_same_examples() -> None:
    method = replace(METHODS["tbt"], updates=4)
    settings = TrainSettings(steps=10, batch_size=64)
    found = method.more_updates(settings, 1000)
    assert (found.steps, found.batch_size) == (40, 16)
    by_epochs = method.more_updates(TrainSettings(epochs=2, batch_size=64), 640)
    assert (by_epochs.steps, by_epochs.batch_size) == (80, 16)
    with pytest.raises(MethodError, match="divides batches by 4, and 10 examples cannot be"):
        method.more_updates(TrainSettings(batch_size=10), 100)
