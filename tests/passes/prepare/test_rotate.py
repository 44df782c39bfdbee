"""Rotated inputs: what the plan says, what is refused, and weights that are rotated exactly once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_tools import trained
from models import bart, gpt2, llama
from torch import nn
from torch.nn.utils import parametrize

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.adapters.pretrained import load_float
from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError
from tbt_compile.passes.prepare.pipeline import PREPARE
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.preparation import load_prepared, make_context
from tbt_compile.quantizers.hadamard import RotatedActivationQuantizer, butterflies
from tbt_compile.training.methods.binarybert import split_copy
from tbt_compile.training.stages import load_teacher

BART, LLAMA = ("*.out_proj", "*.fc2"), ("*.o_proj", "*.down_proj")
X = torch.randn(3, 32)
SIGNED = [(1, Encoding.BINARY), (2, Encoding.TERNARY), (8, Encoding.INT8)]


class Relu(nn.Module):
    """The input of the second layer is never negative."""

    def __init__(self, inner: int = 48) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, inner), nn.Linear(inner, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


def rotated(notation: str = "2-2-2", patterns: tuple[str, ...] = ("down",), **options: Any) -> Recipe:
    return Recipe.parse(notation, hadamard=patterns, **options)


@pytest.mark.parametrize(("bits", "encoding"), SIGNED)
def test_what_is_rotated_has_signs_and_the_plan_says_why(bits: int, encoding: Encoding) -> None:
    plan = tbt_compile.plan(Relu(), rotated(f"2-2-{bits}"), (X,))
    x = plan["down"].operand("input")
    assert (x.encoding, x.hadamard) == (encoding, 16)
    assert x.reason == "signed: Hadamard blocks of 16 mix signs (non-negative: output of relu)"
    assert x.reason in str(plan)
    assert plan["up"].operand("input").hadamard == 0
    values = plan.to_dict()
    assert QuantPlan.from_dict(values) == plan
    assert [set(item) for site in values["sites"] for item in site["operands"]].count(
        {"name", "encoding", "reason", "hadamard"}
    ) == 1


def test_a_rotation_clips_nothing_of_a_gelu() -> None:
    plan = tbt_compile.plan(bart(layers=1), rotated("2-2-2", ("*.fc2",), gelu="nonnegative"))
    x = plan["model.encoder.layers.0.fc2"].operand("input")
    assert x.encoding is Encoding.TERNARY
    assert x.reason == "signed: Hadamard blocks of 64 mix signs (signed: output of gelu, which reaches -0.17)"


@pytest.mark.parametrize(
    ("make", "patterns"), [(bart, BART), (llama, LLAMA), (gpt2, ("*.attn.c_proj", "*.mlp.c_proj"))]
)
def test_matching_layers_get_rotated_weights_and_no_other_does(make: Any, patterns: tuple[str, ...]) -> None:
    model = make(layers=1)
    before = copy.deepcopy(model)
    tbt_compile.prepare(model, rotated("2-2-2", patterns))
    found = 0
    for name, module in model.named_modules():
        if not hasattr(module, "input_quantizer"):
            continue
        old: Any = before.get_submodule(name)
        block = module.input_quantizer.hadamard
        assert isinstance(module.input_quantizer, RotatedActivationQuantizer) == bool(block)
        if not block:
            assert torch.equal(module.weight, old.weight)
            continue
        found += 1
        rows = old.weight.t() if make is gpt2 else old.weight
        weight = module.weight.t() if make is gpt2 else module.weight
        assert torch.equal(weight, butterflies(rows, block))
    assert found == len([name for name, _ in model.named_modules() if _ends(name, patterns)]) > 1


def _ends(name: str, patterns: tuple[str, ...]) -> bool:
    return name.endswith(tuple(pattern.removeprefix("*") for pattern in patterns))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_without_quantization_the_model_computes_what_it_did(dtype: torch.dtype) -> None:
    model = bart(layers=1).to(dtype).eval()
    ids = torch.randint(3, 96, (2, 7))
    with torch.no_grad():
        expected = model(input_ids=ids, decoder_input_ids=ids).logits
        tbt_compile.prepare(model, rotated("2-2-8", BART))
        for module in model.modules():
            for child in module.children():
                if hasattr(child, "encoding"):
                    child.encoding = Encoding.FLOAT
        found = model(input_ids=ids, decoder_input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_graph_is_the_reference_of_the_model() -> None:
    model = Relu()
    context = make_context(model, rotated(), (X,))
    PREPARE.run(context)
    assert torch.equal(context.captured(X), model(X))
    assert context.to_rotate == {"down": 16}


@pytest.mark.parametrize(
    ("patterns", "model", "message"),
    [
        (("*.fc3",), Relu(), r"pattern '\*.fc3' matches no linear layer of this Relu"),
        (("dwon",), Relu(), r"matches no linear layer.* Did you mean down"),
        (("down",), Relu(inner=7), "names 'down', with 7 inputs: expected an even number"),
    ],
)
def test_patterns_that_cannot_be_followed(patterns: tuple[str, ...], model: nn.Module, message: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (tbt_compile.plan, tbt_compile.prepare):
        with pytest.raises(PlanError, match=message):
            call(model, rotated(patterns=patterns), (X[:, :32],))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_are_not_of_the_layer_alone() -> None:
    with pytest.raises(PlanError, match="weight of 'lm_head' is shared with model.shared.weight"):
        tbt_compile.plan(bart(layers=1), rotated(patterns=("lm_head",)))
    tied = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    tied[2].weight = tied[0].weight
    with pytest.raises(PlanError, match="weight of '2' is shared with 0.weight"):
        tbt_compile.plan(tied, rotated(patterns=("2",)), (X,))
    computed = Relu()
    torch.nn.utils.parametrizations.weight_norm(computed.down)
    assert parametrize.is_parametrized(computed.down)
    with pytest.raises(PlanError, match="weight of 'down' is computed from other parameters"):
        tbt_compile.plan(computed, rotated(), (X,))


def test_layers_that_are_not_quantized_as_such() -> None:
    class Called(Relu):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(torch.relu(self.up(x)), self.down.weight)

    with pytest.raises(PlanError, match="names 'down', which is not quantized as a layer"):
        tbt_compile.plan(Called(), rotated(), (X,))

    class Unused(Relu):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(x)

    with pytest.raises(PlanError, match="names 'down', which is not quantized as a layer"):
        tbt_compile.plan(Unused(), rotated(), (X,))
    recipe = rotated(patterns=("lm_head",), output_projection_activation_bits=32)
    with pytest.raises(PlanError, match="names 'lm_head', whose input or weight stays in full precision"):
        tbt_compile.plan(bart(layers=1, tie_word_embeddings=False), recipe)


def test_excluded_layers_are_not_rotated() -> None:
    recipe = rotated("2-2-2", BART, exclude=("model.decoder",))
    plan = tbt_compile.plan(bart(layers=1), recipe)
    assert plan["model.encoder.layers.0.fc2"].operand("input").hadamard == 64
    assert not [site for site in plan if site.fqn.startswith("model.decoder.layers")]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.endswith("weight")}


@pytest.mark.parametrize(("make", "patterns"), [(bart, BART), (llama, LLAMA)])
def test_a_saved_model_is_not_rotated_again(make: Any, patterns: tuple[str, ...], tmp_path: Path) -> None:
    student = trained(make(layers=1), rotated("2-2-8", patterns))
    student.save_pretrained(tmp_path)
    for loaded in (load_prepared(tmp_path), type(student).from_pretrained(tmp_path)):
        assert loaded.state_dict().keys() == student.state_dict().keys()
        state = student.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    other = tbt_compile.prepare(load_float(tmp_path), rotated("1-1-8", patterns))
    assert all(torch.equal(value, weights(student)[name]) for name, value in weights(other).items())


def test_a_student_without_its_quantizers_is_rotated_back(tmp_path: Path) -> None:
    teacher = bart(layers=1)
    before = {name: value.clone() for name, value in weights(teacher).items()}
    student = trained(teacher, rotated("2-2-8", BART))
    student.save_pretrained(tmp_path)
    again = load_teacher(tmp_path)
    assert all(not hasattr(module, "input_quantizer") for module in again.modules())
    for name, value in weights(again).items():
        torch.testing.assert_close(value, before[name])
    staged = tbt_compile.prepare(again, rotated("1-1-8", BART))
    for name, value in weights(staged).items():
        torch.testing.assert_close(value, weights(student)[name])
    plain = tbt_compile.prepare(load_float(tmp_path), "2-2-8")
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, before[name])


def test_weights_of_which_nobody_knows_whether_they_are_rotated(tmp_path: Path) -> None:
    student = trained(bart(layers=1), rotated("2-2-8", BART))
    student.save_pretrained(tmp_path)
    stranger = type(student)(copy.deepcopy(load_float(tmp_path).config))
    with pytest.raises(PlanError, match="its weights are not those of the folder"):
        tbt_compile.prepare(stranger)
    changed = load_float(tmp_path)
    with torch.no_grad():
        changed.model.encoder.layers[0].fc2.weight.mul_(2)
    with pytest.raises(PlanError, match="load it by from_pretrained, or set config.quantization_config"):
        tbt_compile.prepare(changed, "2-2-2")
    changed.config.quantization_config = None
    tbt_compile.prepare(changed, rotated("2-2-2", BART))
    half = type(student).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.encoder.layers[0].fc2.input_quantizer.hadamard == 64


def test_a_split_student_starts_from_rotated_weights_as_they_are() -> None:
    options = {"weight_method": "l2", "center_weights": False, "hadamard": ("*.out_proj",)}
    narrow = bart(layers=1)
    ternary = trained(copy.deepcopy(narrow), Recipe.parse("2-2-8", **options))
    binary = split_copy(ternary, narrow, Recipe.parse("1-1-8", split=("*.fc1", "*.fc2"), **options))
    for name, value in weights(ternary).items():
        if ".fc" not in name:
            torch.testing.assert_close(value, binary.state_dict()[name])
