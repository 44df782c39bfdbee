"""GGUF files: ternary types decode to the codes that were written, and foreign files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tbt_compile
from tbt_compile.encoding import Encoding
from tests.checkpoints.checkpoint_tools import linears, llama, q1_0, q2_k, save, save_gguf, with_codes

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
