"""The commands that take a full-precision checkpoint, given one without an encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from models import MLP, llama
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM

import tbt_compile
from tbt_compile.data.tokenization import train_word_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder-only model and its tokenizer, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("decoder-only") / "llama"
    llama(layers=1).save_pretrained(folder)
    tokenizer = train_word_tokenizer(["one two three four five six"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")  # no end token in a prompt
    tokenizer.save_pretrained(folder)
    return folder


def test_lower_quantizes_and_compiles_it(tbt, checkpoint: Path) -> None:
    out = checkpoint.parent / "compiled"
    result = tbt("lower", checkpoint, "--recipe", "2-2-8", "-o", out)
    assert result.code == 0, result.err
    assert "MiB for" in result.out
    run = tbt("run", out, "one two three", "--max-new-tokens", 3, "--json", "-")
    assert run.code == 0, run.err
    assert run.json()["texts"][0]["source"] == "one two three"
    for texts, words in (
        ([""], "error: the text is empty ('')"),
        (["one", " "], "text 2 of 2 is empty (' ')"),
    ):
        empty = tbt("run", out, *texts)
        assert empty.code == 2
        assert words in empty.err


def test_lower_warns_of_a_missing_tokenizer(
    tbt, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "bare"
    shutil.copytree(checkpoint, source, ignore=shutil.ignore_patterns("token*"))
    once = tbt_compile.load(checkpoint.parent / "compiled")
    monkeypatch.setattr(tbt_compile, "lower", lambda *_, **__: once)
    result = tbt("lower", source, "--recipe", "2-2-8", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert f"warning: {source} has no tokenizer.json" in result.err
    assert "`tbt run` needs the tokenizer" in result.err


def test_a_packed_plain_module_is_lowered_from_python(tbt, tmp_path: Path) -> None:
    x = torch.randn(2, 8)
    module = tbt_compile.prepare(MLP(), "2-2-2", x)
    module(x)
    folder = tbt_compile.freeze(module).save(tmp_path / "packed")
    result = tbt("lower", folder, "-o", tmp_path / "out")
    assert result.code == 2
    assert f"tbt_compile.lower(tbt_compile.load('{folder}', model=MLP(...)))" in result.err
    assert result.err.count("\n") == 1


def test_train_says_what_it_distils_before_it_does_anything(
    tbt, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out, teacher = tmp_path / "out", tmp_path / "bert"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 20}
    BertForMaskedLM(BertConfig(**sizes, intermediate_size=16)).save_pretrained(teacher)
    for data_folder in (data, tmp_path / "nothing"):
        result = tbt("train", "--data", data_folder, "--teacher", teacher, "-o", out)
        assert result.code == 2
        assert f"{teacher}: the BertForMaskedLM cannot be distilled" in result.err
        assert result.err.count("\n") == 1
        assert not out.exists()


def test_prompts_need_a_template(tbt, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    commands = (
        ["evaluate", checkpoint],
        [
            "train",
            "--teacher",
            checkpoint,
            "-o",
            tmp_path / "out",
            "--source-length",
            16,
            "--target-length",
            16,
        ],
    )
    for command in commands:
        result = tbt(*command, "--data", data)
        assert result.code == 2
        assert "the tokenizer has no chat template: give the template" in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    scored = tbt(
        "evaluate",
        checkpoint,
        "--data",
        data,
        "--template",
        "{source} :",
        "--json",
        "-",
        "--limit",
        2,
        "--max-new-tokens",
        8,
    )
    assert scored.json()["sentences"] == 2


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
