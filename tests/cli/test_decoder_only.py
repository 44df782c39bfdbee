"""The commands that take a full-precision checkpoint, given one without an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import llama
from transformers import BertConfig, BertForMaskedLM

from tbt_compile.data.tokenization import train_word_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder-only model and its tokenizer, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("decoder-only") / "llama"
    llama(layers=1).save_pretrained(folder)
    train_word_tokenizer(["one two three four five six"]).save_pretrained(folder)
    return folder


def test_lower_quantizes_and_compiles_it(tbt, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = tbt("lower", checkpoint, "--recipe", "2-2-8", "-o", out)
    assert result.code == 0, result.err
    assert "MiB for" in result.out
    run = tbt("run", out, "one two three", "--max-new-tokens", 3, "--json", "-")
    assert run.code == 0, run.err
    assert run.json()["texts"][0]["source"] == "one two three"


def test_train_says_what_it_distils_before_it_does_anything(
    tbt, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for data_folder in (data, tmp_path / "nothing"):
        result = tbt("train", "--data", data_folder, "--teacher", checkpoint, "-o", out)
        assert result.code == 2
        assert f"{checkpoint}: the LlamaForCausalLM is no encoder-decoder" in result.err
        assert "distillation expects a model such as BART or T5" in result.err
        assert result.err.count("\n") == 1
        assert not out.exists()


def test_evaluate_scores_no_prompts(tbt, checkpoint: Path, data: Path) -> None:
    result = tbt("evaluate", checkpoint, "--data", data)
    assert result.code == 2
    assert "the model is decoder-only" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("damage", ["config", "weights", "no weights", "another kind"])
def test_a_checkpoint_that_cannot_be_read_is_one_line(
    tbt, checkpoint: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "damaged"
    llama(layers=1).save_pretrained(folder)
    if damage == "config":
        (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"nothing")
    elif damage == "no weights":
        (folder / "model.safetensors").unlink()
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 20}
        BertForMaskedLM(BertConfig(**sizes, intermediate_size=16)).save_pretrained(folder)
    result = tbt("lower", folder, "--recipe", "2-2-8", "-o", tmp_path / "out")
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1
    expected = "BertForMaskedLM, which does not generate" if damage == "another kind" else "cannot be read ("
    assert f"{folder} " in result.err and expected in result.err
