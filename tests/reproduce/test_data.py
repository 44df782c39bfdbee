"""The paper's data sets: fetched with its settings, or a clear refusal without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from training.small import model

from tbt_compile.data.text_pairs import TextData, TextPair
from tbt_compile.data.tokenization import load_tokenizer
from tbt_compile.errors import DataError
from tbt_compile.reproduce import Experiment
from tbt_compile.reproduce.paper_data import PAPER_DATA
from tbt_compile.reproduce.task import Task, open_task
from tbt_compile.reproduce.teacher import open_model

Make = Callable[..., Experiment]
ROW = {"document": "A long text.", "summary": "Short.", "article": "A.", "highlights": "B."}
ROWS = [{**ROW, "translation": {"en": "one", "ro": "unu"}}]


@pytest.mark.parametrize("name", PAPER_DATA)
def test_settings_are_the_papers(name: str, experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {"train": ROWS, "test": ROWS}

    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {"data": None, "dataset": name, "batch_size": None, "max_source_length": None}
    made = experiment(table="table1", max_target_length=None, **options)
    task = open_task(made)
    known = PAPER_DATA[name]
    assert asked == [(known.hub.partition(":")[0], known.hub.partition(":")[2] or None)]
    assert (task.lengths.source, task.lengths.target) == (
        known.lengths.source,
        known.lengths.target,
    )
    assert (task.metric, task.num_beams, task.data_set) == (known.metric, known.num_beams, name)
    pair = task.test[0]
    assert (pair.source, pair.target) == {
        "xsum": ("A long text.", "Short."),
        "cnn_dailymail": ("A.", "B."),
        "wmt16-ro-en": ("one", "unu"),
    }[name]


def test_without_a_network_the_error_says_what_to_do(
    experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        DataError, match=r"could not be fetched \(Couldn't reach the hub\).* folder with train"
    ):
        open_task(experiment(data=None, dataset="xsum"))


def test_a_multilingual_model_starts_with_the_language_to_write(
    experiment: Make, inputs: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(inputs / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["en_XX", "ro_RO"]})
    tokenizer.save_pretrained(tmp_path / "model")
    model().save_pretrained(tmp_path / "model")
    pair = TextPair("a", "b")
    languages = PAPER_DATA["wmt16-ro-en"].languages
    task = Task("mine", TextData((pair,)), 8, 8, 1, "bleu", (pair,), languages=languages)
    opened, read = open_model(experiment(config=str(tmp_path / "model")), task)
    assert opened.generation_config.decoder_start_token_id == read.convert_tokens_to_ids("ro_RO") > 4


def test_the_papers_rates_and_batches(experiment: Make) -> None:
    made = experiment(data=None, dataset="xsum", config="facebook/bart-base", batch_size=None, steps=None)
    low, eight = (made.student_training(notation, 3) for notation in ("2-2-2", "2-2-8"))
    assert (low.learning_rate, eight.learning_rate) == (5e-4, 2.5e-4)
    assert (low.batch_size, low.epochs, low.steps, low.seed) == (128, 20.0, None, 3)
    small = experiment(config="tiny", batch_size=None)
    assert (small.student_training("2-2-2", 1).learning_rate, small.teacher_training.batch_size) == (4e-3, 64)
