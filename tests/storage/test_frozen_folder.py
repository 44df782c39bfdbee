"""Frozen models on disk: what is stored, that it comes back exactly, and folders that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import FAMILIES, MLP, Classifier, bart, batch, generate, t5
from torch import Tensor, nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import FrozenModel
from tbt_compile.errors import FormatError
from tbt_compile.storage import model_folder
from tbt_compile.storage.frozen_folder import describe_quantizers

TENSORS = model_folder.KINDS["frozen"].tensors


def frozen(model: PreTrainedModel, recipe: str = "2-2-2") -> FrozenModel:
    tbt_compile.prepare(model, recipe)
    model(**batch(model))
    return tbt_compile.freeze(model)


def logits(model: FrozenModel) -> Tensor:
    return model(**batch(model.module)).logits


def tensors(model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters(remove_duplicate=False))
    return {**named, **dict(model.named_buffers(remove_duplicate=False))}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_exactly(family: str, tmp_path: Path) -> None:
    model = frozen(FAMILIES[family](layers=1))
    loaded = tbt_compile.load(model.save(tmp_path / "model"))
    assert isinstance(loaded, FrozenModel)
    assert type(loaded.module) is type(model.module)
    assert loaded.recipe == model.recipe
    assert loaded.module.config.to_diff_dict() == model.module.config.to_diff_dict()
    before, after = tensors(model.module), tensors(loaded.module)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype, name
    assert describe_quantizers(loaded.module) == describe_quantizers(model.module)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.nbytes == model.nbytes
    assert not loaded.module.training
    again = loaded.save(tmp_path / "again")
    assert (again / TENSORS).read_bytes() == (tmp_path / "model" / TENSORS).read_bytes()


@pytest.mark.parametrize("recipe", ["1-2-8", "2-2-32", "32-2-2"])
def test_recipes_with_unquantized_operands_come_back_too(recipe: str, tmp_path: Path) -> None:
    model = frozen(t5(layers=1), recipe)
    loaded = tbt_compile.load(model.save(tmp_path / "model"))
    assert loaded.recipe.notation == recipe
    assert torch.equal(logits(loaded), logits(model))


def test_a_loaded_model_generates_with_the_settings_it_was_saved_with(tmp_path: Path) -> None:
    source = bart(layers=1)
    source.generation_config.num_beams = 3
    source.generation_config.max_new_tokens = 6
    model = frozen(source)
    loaded = tbt_compile.load(model.save(tmp_path / "model"))
    assert loaded.module.generation_config.num_beams == 3
    ids = batch(source)["input_ids"]
    assert torch.equal(loaded.generate(ids), model.generate(ids))
    assert torch.equal(generate(loaded.module), generate(model.module))


def test_the_folder_holds_each_tensor_once_and_no_float_weight(tmp_path: Path) -> None:
    model = frozen(bart(layers=1))
    folder = model.save(tmp_path / "model")
    names = ["config.json", "generation_config.json", model_folder.MANIFEST, TENSORS]
    assert sorted(file.name for file in folder.iterdir()) == names
    manifest = model_folder.read_manifest(folder, "frozen")
    assert manifest["class"] == "BartForConditionalGeneration"
    assert manifest["recipe"] == model.recipe.to_dict()
    assert set(manifest["versions"]) == {"torch", "transformers"}
    stored = manifest["tensors"]
    assert not stored.keys() & manifest["tied"].keys()
    assert {*stored, *manifest["tied"]} == set(tensors(model.module))
    packed = [entry for name, entry in stored.items() if name.endswith("packed")]
    assert len([entry for entry in packed if entry["shape"] == [96, 2, 1]]) == 1  # the shared embedding
    floats = [
        entry["shape"]
        for name, entry in stored.items()
        if "float" in entry["dtype"] and "embed_pos" not in name
    ]
    assert all(len(shape) < 2 or 1 in shape for shape in floats)
    kinds = {entry["module"]: entry["kind"] for entry in manifest["quantizers"]}
    assert kinds["model.encoder.layers.0.self_attn.tbt_attention"] == "attention"
    assert kinds["lm_head"] == "linear"
    assert kinds["model.encoder.embed_tokens"] == "embedding"


class Words:
    """As much of a tokenizer as saving needs."""

    def save_pretrained(self, folder: str | Path) -> None:
        (Path(folder) / "tokenizer.json").write_text('{"words": 3}')


def test_a_tokenizer_comes_along(tmp_path: Path) -> None:
    folder = frozen(bart(layers=1)).save(tmp_path / "model", tokenizer=Words())
    assert json.loads((folder / "tokenizer.json").read_text()) == {"words": 3}
    assert "tokenizer.json" in model_folder.read_manifest(folder)["files"]


def plain(kind: type[nn.Module], *shape: int) -> tuple[FrozenModel, Tensor]:
    model = tbt_compile.prepare(kind(), "2-2-2", torch.randn(shape))
    model(torch.randn(shape))
    return tbt_compile.freeze(model), torch.randn(shape)


class Normed(nn.Module):
    """Buffers of every kind: a scalar counter, vectors, and one that is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first = nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.register_buffer("shift", torch.randn(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.norm(x + self.shift))


@pytest.mark.parametrize(("kind", "shape"), [(MLP, (3, 8)), (Classifier, (2, 5, 16)), (Normed, (3, 8))])
def test_plain_modules_are_loaded_into_an_instance(
    kind: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    model, x = plain(kind, *shape)
    instance = kind()
    loaded = tbt_compile.load(model.save(tmp_path / "model"), model=instance)
    assert loaded.module is instance
    assert torch.equal(loaded(x), model(x))
    after = tensors(loaded.module)
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors(model.module).items())


class Caching(MLP):
    """Makes a mask when it is called, and a longer one for longer inputs."""

    def __init__(self, made: bool) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1) if made else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or len(self.mask) < x.shape[1]:
            self.register_buffer("mask", torch.rand(x.shape[1]), persistent=False)
        return super().forward(x * self.mask)


@pytest.mark.parametrize("made", [True, False])
def test_buffers_that_a_call_makes_or_resizes_come_back(made: bool, tmp_path: Path) -> None:
    model, x = Caching(made), torch.randn(2, 8)
    model.eval()(x)
    tbt_compile.prepare(model, "2-2-2", x)(x)
    frozen = tbt_compile.freeze(model)
    loaded = tbt_compile.load(frozen.save(tmp_path / "model"), Caching(made))
    assert torch.equal(loaded(x), frozen(x))
    assert torch.equal(loaded.module.mask, frozen.module.mask)


class Wider(MLP):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 5)


class Longer(MLP):
    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(4, 4)


class WithoutBias(MLP):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 4, bias=False)


def prepared() -> nn.Module:
    return tbt_compile.prepare(MLP(), "2-2-2", torch.randn(3, 8))


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        (Wider, r"second.bias should be \[5\], and the folder has \[4\]"),
        (Longer, r"third.weight should be \[4, 4\], and the folder has nothing"),
        (WithoutBias, "it has no place for second.bias"),
        (Classifier, "Classifier has no module 'first'"),
        (prepared, "has quantizers: pass one in full precision"),
    ],
)
def test_an_instance_that_does_not_fit(instance: type[nn.Module], message: str, tmp_path: Path) -> None:
    folder = plain(MLP, 3, 8)[0].save(tmp_path / "model")
    with pytest.raises(FormatError, match=message):
        tbt_compile.load(folder, model=instance())


def test_a_plain_module_needs_an_instance(tmp_path: Path) -> None:
    folder = plain(MLP, 3, 8)[0].save(tmp_path / "model")
    with pytest.raises(FormatError, match=r"holds a MLP that is not a transformers model: pass an instance"):
        tbt_compile.load(folder)


def _save_as(folder: Path, **changes: str) -> None:
    """Write a folder again with another manifest, as another release might have done."""
    manifest = model_folder.read_manifest(folder)
    arrays = model_folder.read_tensors(folder, manifest)
    files = {name: folder / name for name in manifest["files"] if name != TENSORS}
    model_folder.write_folder(folder, "frozen", {**manifest, **changes}, arrays, files)


def test_a_class_that_this_transformers_lacks(tmp_path: Path) -> None:
    folder = frozen(bart(layers=1)).save(tmp_path / "model")
    _save_as(folder, **{"class": "Bart2050ForGeneration"})
    with pytest.raises(
        FormatError, match=r"holds a Bart2050ForGeneration, which transformers 5\S* does not have"
    ):
        tbt_compile.load(folder)


def test_a_kind_that_is_unknown(tmp_path: Path) -> None:
    folder = frozen(bart(layers=1)).save(tmp_path / "model")
    _save_as(folder, kind="melted")
    with pytest.raises(FormatError, match="kind 'melted': expected 'frozen' or 'compiled'"):
        tbt_compile.load(folder)


def test_damage_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = frozen(bart(layers=1)).save(tmp_path / "model")
    file = folder / TENSORS
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FormatError, match="truncated"):
        tbt_compile.load(folder)
    with pytest.raises(FormatError, match=r"it does not exist"):
        tbt_compile.load(tmp_path / "elsewhere")


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("thesis")
    with pytest.raises(FormatError, match="is not a model folder: remove it or choose another place"):
        frozen(bart(layers=1)).save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "thesis"
