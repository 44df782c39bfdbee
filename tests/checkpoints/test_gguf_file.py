"""GGUF files: ternary types decode to the codes that were written, and foreign files are refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import tbt_compile
from tbt_compile.checkpoints.gguf_file import GgufCheckpoint
from tbt_compile.checkpoints.whole import load_full_precision
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError
from tests.checkpoints.checkpoint_tools import (
    bitnet,
    linears,
    llama,
    q1_0,
    q2_k,
    save,
    save_gguf,
    ternary,
    with_codes,
)

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
KIND = gguf.GGMLQuantizationType


def _by_package(kind: Any) -> Any:
    return lambda weight: (gguf.quantize(weight, kind), kind)


TYPES = {
    "TQ1_0": (256, False, _by_package(KIND.TQ1_0)),
    "TQ2_0": (256, False, _by_package(KIND.TQ2_0)),
    "Q2_K": (256, False, lambda weight: (q2_k(weight), KIND.Q2_K)),
    "Q1_0": (128, True, lambda weight: (q1_0(weight), KIND.Q1_0)),
    "BF16": (None, False, _by_package(KIND.BF16)),
}


@pytest.mark.parametrize("name", TYPES)
def test_tokens_are_those_of_the_same_weights_in_safetensors(tmp_path: Path, name: str) -> None:
    size, binary, encode = TYPES[name]
    model = with_codes(llama(), size, binary)
    for stem in ("model.embed_tokens", "lm_head"):
        module = model.get_submodule(stem)
        module.weight.data = module.weight.half().float()
    file = save_gguf(tmp_path / "model.gguf", model, encode)
    folder = save(tmp_path / "folder", model, dict(model.state_dict()))
    ours, theirs = tbt_compile.from_pretrained(file), tbt_compile.from_pretrained(folder)
    expected = Encoding.BINARY if binary else Encoding.TERNARY
    for layer in linears(ours.module):
        weight = ours.module.get_submodule(layer).weight_quantizer
        assert weight.encoding is expected
        assert torch.equal(weight().value, model.get_submodule(layer).weight)
    ids = torch.randint(3, 320, (4, 9))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
        torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_bitnet_is_what_its_safetensors_are(tmp_path: Path) -> None:
    """GGUF's BitNet has SiLU, sub-norms and inputs of 8 bits; its blocks of weights share one scale."""
    model = bitnet(hidden_act="silu").float()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"].half()
    for name, module in linears(model).items():
        codes, _ = ternary(module.weight)
        module.weight.data = codes * 0.125
        state |= {f"{name}.weight": codes.half(), f"{name}.weight_scale": torch.tensor([0.125])}
    file = save_gguf(tmp_path / "model.gguf", model, _by_package(KIND.TQ2_0))
    model.config.quantization_config = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    folder = save(tmp_path / "folder", model, state)
    ours, theirs = tbt_compile.from_pretrained(file), tbt_compile.from_pretrained(folder)
    assert ours.recipe == theirs.recipe
    ids = torch.randint(3, 320, (4, 9))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("share", (0.0, 0.001, 0.3, 0.99))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    file = save_gguf(tmp_path / "model.gguf", with_codes(llama(), 256), _by_package(KIND.TQ2_0))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FormatError, match=r"model.gguf cannot be read .*: expected a whole GGUF file"):
        tbt_compile.from_pretrained(file)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a GGUF file at all" * 99)
    with pytest.raises(FormatError, match=r"model.gguf cannot be read .*: expected a whole GGUF file"):
        tbt_compile.from_pretrained(file)


def test_a_file_in_full_precision_is_refused(tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "model.gguf", llama(), _by_package(KIND.Q8_0))
    with pytest.raises(FormatError, match=r"has no ternary or binary weights"):
        tbt_compile.from_pretrained(file)


def test_a_float_model_that_transformers_read_is_prepared(tmp_path: Path) -> None:
    """transformers converts the weights of a GGUF file to floats, and leaves the file's config behind."""
    file = save_gguf(tmp_path / "model.gguf", llama(), _by_package(KIND.Q8_0))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    prepared = tbt_compile.prepare(model, "2-2-2")
    ids = torch.randint(3, 320, (4, 9))
    with torch.no_grad():
        expected = prepared(ids).logits
        prepared.save_pretrained(tmp_path / "prepared")
        assert torch.equal(tbt_compile.load_prepared(tmp_path / "prepared").eval()(ids).logits, expected)


def test_scaled_rotations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads them from no GGUF file, and would compute with others."""
    add = gguf.GGUFWriter.add_vocab_size

    def scaled(writer: Any, size: int) -> None:
        add(writer, size)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)

    monkeypatch.setattr(gguf.GGUFWriter, "add_vocab_size", scaled)
    file = save_gguf(tmp_path / "model.gguf", with_codes(llama(), 256), _by_package(KIND.TQ2_0))
    with pytest.raises(FormatError, match="scales its rotary positions, which is not read from GGUF"):
        tbt_compile.from_pretrained(file)


def test_a_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "MODEL", with_codes(llama(), 256), _by_package(KIND.TQ2_0))
    assert tbt_compile.from_pretrained(file).recipe.notation == "32-2-32"


def test_a_list_that_claims_to_be_endless_is_refused(tmp_path: Path) -> None:
    """A list of 2^40 bytes in a file of a few: its elements would be read one by one, beyond the end."""
    key, kinds = b"general.name", (9, 0)  # a list of bytes
    content = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + struct.pack("<IIQ", *kinds, 2**40)
    (tmp_path / "model.gguf").write_bytes(content + bytes(64))
    with pytest.raises(FormatError, match="cannot be read .*it ends before byte"):
        GgufCheckpoint(tmp_path / "model.gguf")


def test_a_model_without_end_is_refused_before_it_is_made(tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "model.gguf", with_codes(llama(), 256), _by_package(KIND.TQ2_0))
    key = b"llama.block_count" + struct.pack("<I", gguf.GGUFValueType.UINT32)
    content = file.read_bytes()
    place = content.index(key) + len(key)
    file.write_bytes(content[:place] + struct.pack("<I", 10**9) + content[place + 4 :])
    with pytest.raises(FormatError, match=r"its config has num_hidden_layers=1000000000: expected a tensor"):
        tbt_compile.from_pretrained(file)


def test_other_types_are_read_in_full_precision_to_train_on(tmp_path: Path) -> None:
    model = llama(tied=True)
    file = save_gguf(tmp_path / "model.gguf", model, _by_package(KIND.Q8_0))
    read = load_full_precision(file)
    expected = dict(model.state_dict())
    for name in linears(model):
        weight = expected[f"{name}.weight"].numpy()
        expected[f"{name}.weight"] = torch.from_numpy(
            gguf.dequantize(gguf.quantize(weight, KIND.Q8_0), KIND.Q8_0)
        )
    for name, tensor in read.state_dict().items():
        stored = expected[name].half().float() if "embed" in name or "lm_head" in name else expected[name]
        torch.testing.assert_close(tensor, stored, rtol=0, atol=1e-6, msg=name)
    assert not hasattr(read.config, "quantization_config")
    assert read.lm_head.weight is read.model.embed_tokens.weight
    read(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert all(weight.grad is not None for weight in read.parameters())
