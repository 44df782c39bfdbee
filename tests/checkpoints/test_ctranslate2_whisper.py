"""Whisper in CTranslate2's layout: the same model, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tbt_compile.checkpoints.ctranslate2_whisper import processors
from tbt_compile.checkpoints.whole import load_full_precision
from tbt_compile.errors import FormatError
from tests.checkpoints.ctranslate2_tools import save_ctranslate2, tiny_whisper


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model = tiny_whisper()
    return model, save_ctranslate2(tmp_path_factory.mktemp("whisper"), model)


def test_weights_and_outputs_are_those_that_were_written(saved: tuple[PreTrainedModel, Path]) -> None:
    model, folder = saved
    read = load_full_precision(folder)
    expected = model.state_dict()
    assert read.state_dict().keys() == expected.keys()
    for name, tensor in read.state_dict().items():
        torch.testing.assert_close(tensor, expected[name].half().float(), rtol=0, atol=0, msg=name)
    fixed = {name for name, weight in read.named_parameters() if not weight.requires_grad}
    assert fixed == {"model.encoder.embed_positions.weight"}
    audio = torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(0))
    tokens = read.generate(input_features=audio, max_new_tokens=5)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    assert tokens.tolist() == model.generate(input_features=audio, max_new_tokens=5).tolist()


def test_the_tokenizer_puts_the_start_in_front(saved: tuple[PreTrainedModel, Path]) -> None:
    model, folder = saved
    tokenizer, extractor = processors(folder)
    names = tokenizer.convert_ids_to_tokens(tokenizer("a cat")["input_ids"])
    assert names[:2] == ["<|startoftranscript|>", "<|notimestamps|>"] and names[-1] == "<|endoftext|>"
    assert tokenizer.decode(tokenizer("a cat")["input_ids"], skip_special_tokens=True) == "a cat"
    assert extractor.feature_size == model.config.num_mel_bins


def test_ctranslate2_writes_what_is_read(saved: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
    from ctranslate2.converters.transformers import WhisperLoader

    model, folder = saved
    tokenizer, _ = processors(folder)
    loader = WhisperLoader()
    spec = loader.get_model_spec(model)
    spec.register_vocabulary(loader.get_vocabulary(model, tokenizer))
    loader.set_config(spec.config, model, tokenizer)
    spec.validate()
    spec.optimize(quantization="float16")
    spec.save(str(tmp_path))
    for name, tensor in load_full_precision(tmp_path).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "ends before byte"),
        ("longer", "bytes are left"),
        ("version", "it has version 5"),
        ("biased keys", "has a bias of keys"),
        ("another tensor", "holds encoder/extra and 0 other tensors"),
        ("int8", "is int8: expected float32 or float16"),
    ],
)
def test_a_file_that_is_no_whisper_is_refused(tmp_path: Path, damage: str, message: str) -> None:
    folder = save_ctranslate2(tmp_path, tiny_whisper(), damage)
    file = folder / "model.bin"
    content = file.read_bytes()
    changed = {"cut": content[:-100], "longer": content + b"\0", "version": b"\5" + content[1:]}
    file.write_bytes(changed.get(damage, content))
    with pytest.raises(FormatError, match=message):
        load_full_precision(folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"model\.bin cannot be read"):
        load_full_precision(tmp_path)
