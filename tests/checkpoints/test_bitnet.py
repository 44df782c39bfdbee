"""BitNet checkpoints of transformers: the same model as transformers reads, without float weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tbt_compile
from tbt_compile.checkpoints.bitnet import unpack_bytes
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError
from tbt_compile.modules.frozen import FrozenActivation
from tests.checkpoints.checkpoint_tools import in_float32, linears, pack_weights, save_bitnet

FORMATS: dict[str, dict[str, Any]] = {
    "bitlinear": {},
    "autobitlinear offline": {"linear_class": "autobitlinear"},
    "autobitlinear offline, not packed": {"linear_class": "autobitlinear", "packed": False},
    "autobitlinear online": {"linear_class": "autobitlinear", "mode": "online"},
    "norms in linear layers": {"norm": True},
    "untied": {"tied": False},
}
NEW_TOKENS = 8


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """Run transformers' code as it is written, without a C++ compiler for each of its functions."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("name", FORMATS)
def test_layers_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    folder = save_bitnet(tmp_path / "folder", **FORMATS[name])
    reference, frozen = in_float32(folder), tbt_compile.from_pretrained(folder)
    assert frozen.recipe.notation == "32-2-8"
    assert frozen.module.get_input_embeddings().weight_quantizer.encoding is Encoding.BFLOAT16
    for layer, theirs in linears(reference).items():
        ours = frozen.module.get_submodule(layer)
        assert ours.weight_quantizer.encoding is Encoding.TERNARY
        x = torch.randn(20, theirs.in_features)
        with torch.no_grad():
            torch.testing.assert_close(
                ours(x), theirs(x), rtol=1e-4, atol=1e-4 * float(theirs(x).abs().max())
            )


@pytest.mark.parametrize("name", FORMATS)
def test_tokens_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """A last bit that turns a code of 8 bits turns a token only where two are almost as likely."""
    folder = save_bitnet(tmp_path / "folder", **FORMATS[name])
    reference, frozen = in_float32(folder), tbt_compile.from_pretrained(folder)
    ids = torch.randint(3, 320, (100, 12))
    with torch.no_grad():
        ours, theirs = frozen(ids).logits, reference(ids).logits
    best = theirs.topk(2).values
    margin = (best[..., 0] - best[..., 1]) / theirs.std()
    differs = ours.argmax(-1) != theirs.argmax(-1)
    assert differs.float().mean() < 0.01
    assert not bool((differs & (margin > 0.1)).any())


@pytest.mark.parametrize("name", ["bitlinear", "autobitlinear online", "norms in linear layers"])
def test_compiled_tokens_are_those_of_the_frozen_model(tmp_path: Path, name: str) -> None:
    folder = save_bitnet(tmp_path / "folder", **FORMATS[name])
    frozen = tbt_compile.from_pretrained(folder)
    compiled = tbt_compile.lower(frozen)
    ids = torch.randint(3, 320, (8, 11))
    mask = torch.ones_like(ids)
    mask[:3, :4] = 0
    for search in ({}, {"num_beams": 3}):
        expected = frozen.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, **search)
        assert np.array_equal(compiled.generate(ids, mask, max_new_tokens=NEW_TOKENS, **search), expected)


@pytest.mark.parametrize(("linear_class", "value"), [("bitlinear", 0.25), ("autobitlinear", 4.0)])
def test_the_direction_of_each_scale(tmp_path: Path, linear_class: str, value: float) -> None:
    folder = save_bitnet(tmp_path / "folder", linear_class)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    tensors[f"{name}.weight_scale"] = torch.tensor([4.0], dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    weight = tbt_compile.from_pretrained(folder).module.get_submodule(name).weight_quantizer().value
    assert set(weight.unique().tolist()) == {-value, 0.0, value}
    x = torch.randn(3, 256)
    with torch.no_grad():
        y = in_float32(folder).get_submodule(name)(x)
    torch.testing.assert_close(y, x @ weight.T, rtol=0.05, atol=0.05 * float(y.abs().max()))


def test_bytes_are_unpacked_in_quarters() -> None:
    codes = torch.randint(-1, 2, (12, 5))
    assert torch.equal(unpack_bytes(pack_weights(codes.clone().float())), codes.to(torch.int8))


def test_tiny_activations_are_not_blown_up() -> None:
    """Below 1e-5 the scale of a token stays what it is at 1e-5: the codes get smaller with the token."""
    quantizer = FrozenActivation(Encoding.INT8, False, torch.ones(()), 1e-5)
    codes, scale = quantizer(torch.tensor([[1e-5, -5e-6], [1e-6, 3e-7], [1.0, 0.5]]))
    assert codes.tolist() == [[127, -64], [13, 4], [127, 64]]
    torch.testing.assert_close(scale.flatten(), torch.tensor([1e-5, 1e-5, 1.0]) / 127)


def test_a_frozen_folder_keeps_floors_norms_and_halves(tmp_path: Path) -> None:
    folder = save_bitnet(tmp_path / "folder", norm=True)
    frozen = tbt_compile.from_pretrained(folder)
    frozen.save(tmp_path / "frozen")
    again = tbt_compile.from_pretrained(tmp_path / "frozen")
    ids = torch.randint(3, 320, (2, 7))
    with torch.no_grad():
        assert torch.equal(frozen(ids).logits, again(ids).logits)


def test_eight_bit_embeddings_are_smaller(tmp_path: Path) -> None:
    folder = save_bitnet(tmp_path / "folder")
    frozen = tbt_compile.from_pretrained(folder, embedding_bits=8)
    assert frozen.recipe.notation == "8-2-8"
    assert frozen.module.lm_head.weight_quantizer is frozen.module.get_input_embeddings().weight_quantizer
    assert frozen.nbytes < tbt_compile.from_pretrained(folder).nbytes
    reference = in_float32(folder)
    ids = torch.randint(3, 320, (4, 12))
    with torch.no_grad():
        change = (frozen(ids).logits - reference(ids).logits).norm() / reference(ids).logits.norm()
    assert 0 < change < 0.05


def test_eight_bit_attention_has_a_packed_cache(tmp_path: Path) -> None:
    folder = save_bitnet(tmp_path / "folder")
    frozen = tbt_compile.from_pretrained(folder, attention_bits=8)
    compiled = tbt_compile.lower(frozen)
    assert any(name.startswith("attention") for name in compiled.kernels)
    ids = torch.randint(3, 320, (4, 9))
    expected = frozen.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS)
    assert np.array_equal(compiled.generate(ids, max_new_tokens=NEW_TOKENS), expected)
    plain = tbt_compile.from_pretrained(folder)
    with torch.no_grad():
        change = (frozen(ids).logits - plain(ids).logits).norm() / plain(ids).logits.norm()
    assert 0 < change < 0.1


def _altered(folder: Path, change: Any) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _set(name: str, value: torch.Tensor) -> Any:
    return lambda tensors: tensors.update({name: value})


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop(f"{UP}.weight_scale"),
            "holds no model.layers.0.mlp.up_proj.weight_scale",
        ),
        (
            _set(f"{UP}.weight", torch.zeros(64, 256, dtype=torch.uint8)),
            r"is uint8 \[64, 256\]: expected \[128, 256\]",
        ),
        (_set(f"{UP}.weight", torch.full((128, 256), 3, dtype=torch.uint8)), "expected ternary codes"),
        (_set(f"{UP}.weight_scale", torch.tensor([0.0])), r"weight_scale is \[0.0\]: expected one finite"),
        (_set(f"{UP}.weight_scale", torch.tensor([float("nan")])), "holds NaN or infinity"),
        (_set(f"{UP}.rms_norm.weight", torch.ones(256)), "for which BitNetForCausalLM has no place"),
        (
            _set("model.embed_tokens.weight", torch.zeros(320, 256).to(torch.float8_e4m3fn)),
            "is float8_e4m3fn",
        ),
        (_set("lm_head.weight", torch.ones(320, 256)), "different values for .*, which its config ties"),
        (_set("model.norm.weight", torch.ones(5)), r"model.norm.weight in .* is \[5\]: expected \[256\]"),
        (_set("model.extra.weight", torch.ones(5)), "for which BitNetForCausalLM has no place"),
        (_set("model.embed_tokens.weight", torch.ones(3, 256)), r"is \[3, 256\]: expected \[320, 256\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = _altered(save_bitnet(tmp_path / "folder"), change)
    with pytest.raises(FormatError, match=message):
        tbt_compile.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"norm": True}, _set(f"{UP}.rms_norm.weight", torch.ones(1)), r"rms_norm.weight is \[1\]: expected"),
        (
            FORMATS["autobitlinear online"],
            _set(f"{UP}.weight", torch.ones(512, 255)),
            r"expected \[512, 256\]",
        ),
        (
            FORMATS["autobitlinear online"],
            _set(f"{UP}.weight", torch.ones(128, 256, dtype=torch.uint8)),
            "is packed: the mode 'online'",
        ),
        (
            FORMATS["autobitlinear online"],
            _set(f"{UP}.weight_scale", torch.ones(1)),
            "for which BitNetForCausalLM has no place",
        ),
    ],
)
def test_other_formats_are_checked_too(
    tmp_path: Path, options: dict[str, Any], change: Any, message: str
) -> None:
    folder = _altered(save_bitnet(tmp_path / "folder", **options), change)
    with pytest.raises(FormatError, match=message):
        tbt_compile.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_weight_may_have_either_name(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = save_bitnet(tmp_path / "folder")
    expected = tbt_compile.from_pretrained(folder)
    weight = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight").to(dtype)

    frozen = tbt_compile.from_pretrained(_altered(folder, rename))
    ids = torch.randint(3, 320, (2, 5))
    assert torch.equal(frozen.module.get_input_embeddings()(ids), weight[ids].float())
    with torch.no_grad():
        assert torch.equal(frozen(ids).logits, expected(ids).logits)


def test_places_that_hold_no_model(tmp_path: Path) -> None:
    folder = save_bitnet(tmp_path / "folder")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(FormatError, match=r"generation_config.json is damaged"):
        tbt_compile.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match=r"holds no model of transformers: expected a folder"):
        tbt_compile.from_pretrained(folder)
    (folder / "model-TQ2_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(FormatError, match=r"name the file: .*model-TQ2_0.gguf"):
        tbt_compile.from_pretrained(folder)
    with pytest.raises(FormatError, match=r"nothing/at/all does not exist: expected a folder"):
        tbt_compile.from_pretrained("nothing/at/all")
