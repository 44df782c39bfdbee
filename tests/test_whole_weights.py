"""Configs that describe more of a model than the files hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartForConditionalGeneration

import tbt_compile
from tbt_compile.adapters.pretrained import load_float, load_generator, load_pretrained
from tbt_compile.adapters.whole_weights import refuse_missing
from tbt_compile.errors import FormatError
from tbt_compile.training.stages import load_teacher
from tests.checkpoints.checkpoint_tools import save_bitnet
from tests.models import bart, gpt2, llama


def deeper(folder: Path, layers: int, *names: str) -> Path:
    """Change the counts of layers in the config of a folder."""
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | dict.fromkeys(names, layers)))
    return folder


@pytest.mark.parametrize("load", [load_float, load_generator, load_pretrained, load_teacher])
@pytest.mark.parametrize("names", [("encoder_layers", "num_hidden_layers"), ("decoder_layers",)], ids=len)
def test_weights_are_not_made_up(tmp_path: Path, load: Callable[[Any], Any], names: tuple[str, ...]) -> None:
    model: BartForConditionalGeneration = bart()
    if load is load_float:
        tbt_compile.prepare(model, "2-2-8")
    model.save_pretrained(tmp_path)
    load(tmp_path)
    deeper(tmp_path, 3, *names)
    with pytest.raises(
        FormatError, match=r"lacks weights that its config describes: .*layers\.\d.* more; save"
    ):
        load(tmp_path)


def test_a_model_without_end_is_refused_before_it_is_made(tmp_path: Path) -> None:
    folder = deeper(save_bitnet(tmp_path / "bitnet"), 10**9, "num_hidden_layers")
    with pytest.raises(
        FormatError, match=r"holds \d+ tensors, and its config has num_hidden_layers=1000000000"
    ):
        tbt_compile.from_pretrained(folder)


def test_nothing_is_missing() -> None:
    refuse_missing((), "folder")


def changed(folder: Path, **fields: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama(layers=2).save_pretrained(tmp_path)
    return tmp_path


LOADERS = [load_generator, load_pretrained, load_teacher]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 1}, r"holds layers that its config leaves out, such as model.layers.1."),
        ({"num_hidden_layers": 0}, r"holds layers that its config leaves out, such as model.layers.0."),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1: expected a count of layers"),
        ({"num_hidden_layers": 10**9}, r"holds \d+ tensors, and its config has num_hidden_layers"),
        ({"intermediate_size": 96}, r"mlp.* has the shape \[.*, and its config describes \[.*from one model"),
        ({"vocab_size": 40}, r" has the shape \[.*, and its config describes \[40"),
        ({"hidden_act": "nope"}, r"cannot be read \(KeyError"),
        ({"num_key_value_heads": 0}, r"cannot be read \(ZeroDivisionError"),
    ],
    ids=lambda value: "=".join(map(str, *value.items())) if isinstance(value, dict) else None,
)
def test_configs_of_other_models(
    folder: Path, load: Callable[[Any], Any], fields: dict[str, Any], message: str
) -> None:
    changed(folder, **fields)
    with pytest.raises(FormatError, match=message):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, "holds NaN or infinite numbers"),
        (-torch.inf, "holds NaN or infinite numbers"),
        (None, r"has the type I8: expected floating-point"),
    ],
)
def test_weights_that_are_no_numbers(
    folder: Path, load: Callable[[Any], Any], value: float | None, message: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    if value is None:
        tensors = {each: weight.to(torch.int8) for each, weight in tensors.items()}
    else:
        tensors[name][3, 5] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=message):
        load(folder)


def test_a_smaller_config_of_a_base_model(tmp_path: Path) -> None:
    """The names in the file have no prefix."""
    model = gpt2(layers=2)
    model.transformer.save_pretrained(tmp_path)
    changed(tmp_path, architectures=["GPT2LMHeadModel"])
    load_generator(tmp_path)
    changed(tmp_path, n_layer=1)
    with pytest.raises(FormatError, match="holds layers that its config leaves out, such as "):
        load_generator(tmp_path)


@pytest.mark.parametrize("load", [*LOADERS, tbt_compile.from_pretrained])
@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_damaged_generation_configs(folder: Path, load: Callable[[Any], Any], content: str) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(FormatError, match="generation_config.json is damaged: save the model again"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"model.norm.weight": 5}}',
        '{"weight_map": {"model.norm.weight": "../outside.safetensors"}}',
    ],
)
def test_damaged_indices(folder: Path, load: Callable[[Any], Any], index: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(FormatError, match=r"model.safetensors.index.json is damaged"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_damaged_files_of_pytorch(folder: Path, load: Callable[[Any], Any]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"nothing that PyTorch wrote")
    with pytest.raises(FormatError, match="cannot be read"):
        load(folder)
