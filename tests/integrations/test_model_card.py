"""Model cards, and what a push to the hub uploads, up to the network."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from models import MLP, batch, generate, prepared
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

import tbt_compile
from tbt_compile.errors import PlanError

NAME = "someone/bart-2-2-2"


def trained() -> PreTrainedModel:
    model = prepared("bart", layers=1)
    model(**batch(model))
    return model


@pytest.fixture
def uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes the place of the hub: what would be uploaded is copied there."""
    folder = tmp_path / "hub"
    folder.mkdir()

    def create_repo(_api: Any, repo_id: str, **_options: Any) -> Any:
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(_api: Any, repo_id: str, operations: Any, **_options: Any) -> str:
        assert repo_id == NAME
        for operation in operations:
            shutil.copy(operation.path_or_fileobj, folder / operation.path_in_repo)
        return "https://hub"

    def upload_file(_api: Any, *, path_or_fileobj: Any, path_in_repo: str, **_options: Any) -> str:
        shutil.copy(path_or_fileobj, folder / path_in_repo)
        return "https://hub"

    for function in (create_repo, create_commit, upload_file):
        monkeypatch.setattr(HfApi, function.__name__, function)
    monkeypatch.setattr(ModelCard, "validate", lambda *_args, **_options: None)
    return folder


def test_a_card_says_what_the_model_is() -> None:
    model = trained()
    card = tbt_compile.model_card(
        model, NAME, teacher="someone/bart", data=["xsum"], scores={"rouge1": 39.125}, language="en"
    )
    data = card.data.to_dict()
    assert data["base_model"] == "someone/bart" and data["datasets"] == ["xsum"]
    assert data["library_name"] == "transformers" and "2-2-2" in data["tags"]
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "rouge1", "value": 39.125}
    packed = tbt_compile.freeze(model)
    for text in (
        "# bart-2-2-2",
        "BartForConditionalGeneration at `2-2-2`",
        f'AutoModelForSeq2SeqLM.from_pretrained("{NAME}")',
        "| recipe | `Recipe.parse('2-2-2')` |",
        "| teacher | someone/bart |",
        "| data | xsum |",
        f"| packed | {packed.nbytes / 2**20:.1f} MiB |",
        "| rouge1 | 39.12 |",
        "it can be trained on",
    ):
        assert text in card.text, text
    other = tbt_compile.model_card(packed, NAME).text
    assert "it does not train" in other and "in full precision" not in other and "## Scores" not in other


def test_a_model_without_quantizers_has_no_card() -> None:
    with pytest.raises(PlanError, match="this MLP has no card"):
        tbt_compile.model_card(MLP(), NAME)
    with pytest.raises(PlanError, match="activation scales were never set"):
        tbt_compile.model_card(prepared("bart", layers=1), NAME)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_pushed_loads(frozen: bool, uploaded: Path) -> None:
    model = trained()
    module: Any = tbt_compile.freeze(model).module if frozen else model
    module.push_to_hub(NAME)
    tbt_compile.model_card(module, NAME).push_to_hub(NAME)
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    assert {file.name for file in uploaded.iterdir()} == names
    assert "2-2-2" in ModelCard.load(uploaded / "README.md").data.tags
    loaded = AutoModelForSeq2SeqLM.from_pretrained(uploaded)
    expected: Tensor = generate(module)
    assert torch.equal(generate(loaded), expected)
