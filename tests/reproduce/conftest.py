"""Sixty pairs and a very small model in folders, for experiments of a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.small import PAIRS, model, tokenizer

from tbt_compile.data.text_pairs import write_pairs
from tbt_compile.reproduce import Experiment


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and model/."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    write_pairs(folder / "data" / "train.jsonl", PAIRS[:50])
    write_pairs(folder / "data" / "test.jsonl", PAIRS[50:])
    model().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    return folder


@pytest.fixture
def experiment(inputs: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """An experiment on them with six steps of training; fields can be given."""

    def make(**fields: Any) -> Experiment:
        usual: dict[str, Any] = {
            "table": "table3",
            "output": tmp_path / "out",
            "data": str(inputs / "data"),
            "config": str(inputs / "model"),
            "rows": ("twn-2-2-2", "tbt-2-2-2"),
            "steps": 6,
            "teacher_steps": 6,
            "batch_size": 8,
            "max_source_length": 40,
            "max_target_length": 12,
            "save_every": 2,
        }
        return Experiment(**{**usual, **fields})

    return make
