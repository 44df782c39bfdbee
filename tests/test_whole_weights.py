"""Configs that describe more of a model than the files hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BartForConditionalGeneration

import tbt_compile
from tbt_compile.adapters.pretrained import load_float, load_generator, load_pretrained
from tbt_compile.adapters.whole_weights import refuse_missing
from tbt_compile.errors import FormatError
from tbt_compile.training.stages import load_teacher
from tests.checkpoints.checkpoint_tools import save_bitnet
from tests.models import bart


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
