"""`verify` finds a compiled model equal to its source, and names the node that was altered."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from compiled_tools import Case, sources, trained
from models import MLP, PAD, bart, llama
from torch import Tensor, nn

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.runtime.bound_library import BoundLibrary, as_array


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.shared(bart(), "2-2-2", "verified-bart", tmp_path_factory)


@pytest.fixture(scope="module")
def frozen(case: Case) -> tbt_compile.FrozenModel:
    return tbt_compile.freeze(case.eager)


def test_every_node_of_a_compiled_folder_is_equal(case: Case, frozen: tbt_compile.FrozenModel) -> None:
    ids, mask = sources(PAD)
    found = tbt_compile.verify(
        frozen, case.loaded(), {"input_ids": ids, "attention_mask": mask}, num_beams=2, max_new_tokens=6
    )
    assert found.ok and found.same_library and found.first_divergence is None
    assert found.agreement == 1 and found.tokens >= 5 * 3
    assert all(node.equal and node.calls and node.elements for node in found.nodes)
    assert {node.unit for node in found.nodes} == {"encoder", "first_step", "step"}
    on_codes = [node for node in found.nodes if node.on_codes]
    layers = {node.layer for node in on_codes}
    assert {f"model.decoder.layers.1.{name}" for name in ("fc2", "self_attn", "self_attn.q_proj")} <= layers
    assert {"tbt::bit_linear", "tbt::attention", "tbt::append_keys"} <= {each.operator for each in on_codes}
    assert sum(node.codes for node in on_codes) > 0 == sum(node.flipped for node in found.nodes)


def test_a_prepared_model_writes_nearly_the_same_tokens(case: Case) -> None:
    mode = case.eager.training
    found = tbt_compile.verify(case.eager, case.compiled)
    assert found.ok and found.agreement >= 0.99
    assert case.eager.training is mode


def test_altered_scales_name_their_nodes(frozen: tbt_compile.FrozenModel) -> None:
    altered = copy.deepcopy(frozen)
    names = ["model.decoder.layers.1.encoder_attn.out_proj", "model.decoder.layers.1.fc2"]
    with torch.no_grad():
        altered.module.get_submodule(f"{names[0]}.input_quantizer").scale.mul_(2.5)
        altered.module.get_submodule(f"{names[1]}.weight_quantizer").scale.mul_(1.5)
    found = tbt_compile.verify(frozen, tbt_compile.lower(altered))
    first = found.first_divergence
    assert first is not None and not found.ok
    assert (first.layer, first.operator) == (names[0], "tbt::bit_linear")
    # Other nodes compute the same from the operands that they get, which are others.
    assert {node.layer for node in found.nodes if not node.equal} == set(names)
    assert first.sqnr is not None and first.sqnr < 40
    between = next(node for node in found.nodes if node.layer == "model.decoder.layers.1.activation_fn")
    assert between.equal and between.flipped > 0
    shown = str(found)
    assert "NOT equal" in shown
    assert f"first divergence: tbt::bit_linear of {first.layer} in first_step" in shown
    assert first.layer in found._repr_html_()


def test_a_library_with_other_outputs_is_found(case: Case, frozen: tbt_compile.FrozenModel) -> None:
    def damaged(library: BoundLibrary, _tensors: object) -> BoundLibrary:
        call = library.call

        def other(name: str, *inputs: object) -> list:
            outputs = call(name, *inputs)
            np.asarray(as_array(outputs[0]))[...] += 1
            return outputs

        library.call = other  # type: ignore[method-assign]
        return library

    found = tbt_compile.verify(frozen, case.loaded().with_library(damaged))
    assert not found.same_library and not found.ok
    assert found.first_divergence is None
    assert "returns other bits than its nodes" in str(found)


def test_a_decoder_only_model_with_a_shortlist() -> None:
    frozen = tbt_compile.freeze(trained(llama(), "1-1-8"))
    compiled = tbt_compile.lower(frozen, shortlist=[5, 6, 7, 40])
    found = tbt_compile.verify(frozen, compiled)  # the frozen model writes tokens of the shortlist, too
    assert found.ok and found.agreement == 1
    assert {node.unit for node in found.nodes} == {"first_step", "step"}


class Images(nn.Module):
    """A convolution, a norm and a linear layer in full precision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor, *, factor: float = 2.0) -> dict[str, Tensor]:
        return {"logits": self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3))) * factor}


@pytest.mark.parametrize("module", [MLP(), Images()], ids=["mlp", "images"])
def test_plain_modules(module: nn.Module) -> None:
    x = torch.randn(3, 8) if isinstance(module, MLP) else torch.randn(2, 3, 6, 6)
    recipe = Recipe.parse("2-2-2", conv=True)
    model = tbt_compile.prepare(module, recipe, (x,))
    model(x)
    frozen = tbt_compile.freeze(model)
    compiled = tbt_compile.lower(frozen)
    for inputs in (None, (torch.cat([x, x]),)):
        found = tbt_compile.verify(frozen, compiled, inputs)
        assert found.ok and found.agreement == 1
        assert {node.unit for node in found.nodes} == {"forward"}
        assert any(node.on_codes for node in found.nodes)
    with pytest.raises(CaptureError, match="does not generate: leave out num_beams"):
        tbt_compile.verify(frozen, compiled, num_beams=2)


def test_what_cannot_be_verified(case: Case, frozen: tbt_compile.FrozenModel) -> None:
    with pytest.raises(PlanError, match="LlamaForCausalLM at 2-2-2 and a compiled BartForConditionalGen"):
        tbt_compile.verify(tbt_compile.freeze(trained(llama(), "2-2-2")), case.compiled)
    with pytest.raises(PlanError, match="at 1-1-1 and a compiled BartForConditionalGeneration at 2-2-2"):
        tbt_compile.verify(tbt_compile.freeze(trained(bart(), "1-1-1")), case.compiled)
    with pytest.raises(PlanError, match="lowered from another model or with other options"):
        tbt_compile.verify(tbt_compile.freeze(trained(bart(decoder_ffn_dim=48), "2-2-2")), case.compiled)
    with pytest.raises(CaptureError, match="expected a dict"):
        tbt_compile.verify(frozen, case.compiled, torch.ones(1, 2))
