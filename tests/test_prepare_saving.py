"""Prepared models are copied, pickled, saved and loaded without loss."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import FAMILIES, AttentionBlock, bart, batch, generate, prepared
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.adapters.pretrained import load_float
from tbt_compile.errors import FormatError, PlanError
from tbt_compile.preparation import load_prepared


def trained(family: str, recipe: str = "2-2-2") -> PreTrainedModel:
    """A prepared model after one batch, so that its scales are no longer what a new model starts with."""
    model = prepared(family, recipe, layers=1)
    model.train()
    model(**batch(model)).loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.mul_(1.37)
    model.zero_grad()
    return model.eval()


def assert_same(left: PreTrainedModel, right: PreTrainedModel) -> None:
    states = left.state_dict(), right.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    with torch.no_grad():
        inputs = batch(left)
        assert torch.equal(left(**inputs).logits, right(**inputs).logits)
    assert torch.equal(generate(left), generate(right))


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_are_exact(family: str, tmp_path: Path) -> None:
    model = trained(family)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert_same(model, loaded)
    assert loaded.config.to_dict()["quantization_config"] == model.config.to_dict()["quantization_config"]


def test_load_prepared_finds_class_and_recipe(tmp_path: Path) -> None:
    model = trained("bart", "1-2-8")
    model.save_pretrained(tmp_path)
    loaded = load_prepared(tmp_path)
    assert type(loaded) is type(model)
    assert_same(model, loaded)


def test_shards_are_read_too(tmp_path: Path) -> None:
    model = trained("bart")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_same(model, type(model).from_pretrained(tmp_path))


def test_another_recipe_starts_with_new_scales(tmp_path: Path) -> None:
    trained("bart").save_pretrained(tmp_path)
    model = tbt_compile.prepare(load_float(tmp_path), "1-1-1")
    assert not any(value for name, value in model.state_dict().items() if name.endswith("initialized"))


def test_scales_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    """A model built from the saved config alone has its own weights, for which the scales mean nothing."""
    trained("bart").save_pretrained(tmp_path)
    loaded = load_float(tmp_path)
    fresh = tbt_compile.prepare(type(loaded)(loaded.config))
    assert not any(value for name, value in fresh.state_dict().items() if name.endswith("initialized"))


@pytest.mark.parametrize(
    ("saved", "read"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_scales_survive_another_dtype(saved: torch.dtype, read: torch.dtype, tmp_path: Path) -> None:
    model = trained("bart").to(saved)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=read)
    assert loaded.dtype == read
    for name, value in model.state_dict().items():
        if name.endswith((".scale", ".initialized")):
            assert torch.equal(loaded.state_dict()[name], value), name


def test_scales_that_are_not_restored_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = trained("bart")
    model.save_pretrained(tmp_path)
    rounded = load_float(tmp_path).bfloat16().float()
    assert not tbt_compile.prepare(rounded).lm_head.weight_quantizer.state_dict()
    assert f"the scales in {tmp_path} are not restored: they belong to other weights" in caplog.text
    caplog.clear()
    type(model.model).from_pretrained(tmp_path)  # other names: no head
    assert "are not restored" in caplog.text


def test_missing_scales_are_an_error(tmp_path: Path) -> None:
    model = trained("bart")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.input_quantizer.scale"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"fc1\.input_quantizer\.scale.*save the prepared model again"):
        type(model).from_pretrained(tmp_path)


def test_load_prepared_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="expected a folder written by save_pretrained"):
        load_prepared(tmp_path / "missing")
    bart(layers=1).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match="was not saved from a prepared model"):
        load_prepared(tmp_path)


def test_config_holds_the_recipe_and_no_attention_implementation(tmp_path: Path) -> None:
    trained("bart", "2-1-8").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"]["recipe"]["weight_bits"] == 1
    assert "tbt" not in [value for value in config.values() if isinstance(value, str)]


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_and_pickles_are_the_same_model(family: str) -> None:
    model = trained(family)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert_same(model, twin)
        classes = [type(module) for module in twin.modules()]
        assert classes == [type(module) for module in model.modules()]


def test_a_copy_trains_on_its_own() -> None:
    model = trained("bart")
    twin = copy.deepcopy(model).train()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    twin(**batch(twin)).loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert twin.lm_head.weight is twin.model.shared.weight


@pytest.mark.parametrize("family", ["bart", "t5", "llama"])
def test_another_attention_implementation_is_refused(family: str) -> None:
    model = trained(family)
    expected = generate(model)
    model.set_attn_implementation("sdpa")
    with pytest.raises(
        PlanError, match=r"was set to 'sdpa', which ignores its quantizers: call model\.set_attn"
    ):
        generate(model)
    model.set_attn_implementation("tbt")
    assert torch.equal(generate(model), expected)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_process_that_only_unpickles_runs_quantized_attention(freeze: bool, tmp_path: Path) -> None:
    model = trained("t5")
    inputs = {"input_ids": torch.arange(3, 9)[None], "decoder_input_ids": torch.arange(3, 7)[None]}
    with torch.no_grad():
        expected = model(**inputs).logits
    stored = tbt_compile.freeze(model).module if freeze else model
    torch.save((stored, inputs, expected), tmp_path / "model.pt")
    program = (
        "import sys, torch; model, inputs, expected = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad(): assert torch.equal(model(**inputs).logits, expected)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.pt")], check=True)


def test_torch_save_keeps_a_plain_block() -> None:
    model: nn.Module = AttentionBlock()
    x = torch.randn(2, 5, 16)
    tbt_compile.prepare(model, "2-2-2", x)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, AttentionBlock)
    assert torch.equal(loaded(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)


def test_state_dict_goes_into_another_prepared_model() -> None:
    model = trained("bart")
    other = prepared("bart", layers=1)
    other.load_state_dict(model.state_dict())
    assert_same(model, other)
