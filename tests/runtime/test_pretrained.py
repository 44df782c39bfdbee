"""Hub habits of compiled folders: what comes along, the card, `save_pretrained` and `from_pretrained`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import golden_folders as golden
import huggingface_hub
import numpy as np
import pytest
from compiled_tools import Case, trained
from huggingface_hub import ModelCard
from models import llama
from transformers import AutoTokenizer, GenerationConfig

import tbt_compile
from tbt_compile import CompiledModel, CompiledModule
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.errors import FormatError
from tbt_compile.storage import model_folder

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
MODULE = golden.FOLDERS / golden.name_of(model_folder.MODULE, "x86-64")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer, a chat template and a generation config."""
    tokenizer = train_word_tokenizer(["a word and another"])
    tokenizer.chat_template = TEMPLATE
    model = llama(layers=1)
    model.generation_config.temperature = 0.5
    model.generation_config.do_sample = True
    model.generation_config.max_new_tokens = 6
    return tbt_compile.lower(trained(model, "2-2-2")).save_pretrained(
        tmp_path_factory.mktemp("chat") / "model", tokenizer=tokenizer
    )


def test_tokenizer_template_and_generation_config_are_there_as_transformers_reads_them(chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a word"}], tokenize=False) == "a word"
    config = GenerationConfig.from_pretrained(chat)
    assert (config.temperature, config.do_sample, config.max_new_tokens) == (0.5, True, 6)
    listed = model_folder.read_manifest(chat)["files"]
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= set(listed)


def test_all_of_it_comes_along(chat: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(chat, tmp_path / "first"))
    model = CompiledModel.from_pretrained(folder)
    shutil.rmtree(folder)
    again = model.save_pretrained(tmp_path / "second")
    assert sorted(file.name for file in again.iterdir()) == sorted(file.name for file in chat.iterdir())
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in chat.iterdir())


def test_a_given_tokenizer_takes_the_place_of_all_files_of_the_other(chat: Path, tmp_path: Path) -> None:
    other = train_word_tokenizer(["other words"])
    folder = tbt_compile.load(chat).save(tmp_path / "model", tokenizer=other)
    assert not (folder / "chat_template.jinja").exists()
    assert (folder / "generation_config.json").read_bytes() == (chat / "generation_config.json").read_bytes()
    assert "other" in AutoTokenizer.from_pretrained(folder).get_vocab()


def test_the_card_says_what_the_model_is(chat: Path, case: Case) -> None:
    card = ModelCard.load(chat / model_folder.CARD)
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "text-generation" and "2-2-2" in data["tags"]
    for text in (
        "LlamaForCausalLM at 2-2-2, compiled",
        "tbt run FOLDER",
        "| vocabulary | 96 |",
        "| `model.so` |",
    ):
        assert text in card.text, text
    assert case.compiled.target.mcpu in card.text
    assert "pipeline_tag" not in ModelCard.load(case.folder / model_folder.CARD).data.to_dict()
    plain = ModelCard.load(MODULE / model_folder.CARD).text
    assert "result = model(x)" in plain and "vocabulary" not in plain


def test_a_name_cannot_write_into_the_card() -> None:
    from tbt_compile.runtime.card import model_card

    module = CompiledModule.read(MODULE)
    named = {**module.description, "class": "A\n---\n<script>|`"}
    text = model_card(named, module.targets, {}, {})
    assert "<script>" not in text and text.count("\n---\n") == 1


def test_from_pretrained_of_both_classes() -> None:
    module = CompiledModule.from_pretrained(MODULE, num_threads=1)
    assert golden.answers(module) == golden.answers_of(MODULE)
    with pytest.raises(FormatError, match="holds a compiled-module model: expected a compiled one"):
        CompiledModel.from_pretrained(MODULE)


def test_from_the_hub(chat: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's cache has links in place of files; the network is left out."""
    asked: list[Any] = []
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in chat.iterdir():
        (snapshot / file.name).symlink_to(file)

    def download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(snapshot)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = CompiledModel.from_pretrained("someone/llama-2-2-2", revision="main")
    assert asked == [("someone/llama-2-2-2", {"revision": "main"})]
    ids = [[5, 6, 7]]
    assert np.array_equal(model.generate(ids), tbt_compile.load(chat).generate(ids))


@pytest.mark.parametrize("name", ["someone/nothing", "nowhere", "/nowhere/at/all"])
def test_what_is_neither_a_folder_nor_on_the_hub(name: str) -> None:
    with pytest.raises(FormatError, match=f"there is no folder {name}, and the hub gives no repository"):
        CompiledModel.from_pretrained(name)


def test_the_module_of_an_upload_is_what_the_manifest_lists(chat: Path) -> None:
    fields = json.loads((chat / model_folder.MANIFEST).read_text())
    assert {file.name for file in chat.iterdir()} == {*fields["files"], model_folder.MANIFEST}
