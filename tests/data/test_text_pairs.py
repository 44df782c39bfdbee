"""Reading text pairs: what is accepted, and the one clear error for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbt_compile.data.text_pairs import (
    TextPair,
    load_data,
    load_folder,
    read_pairs,
    write_pairs,
)
from tbt_compile.errors import DataError

PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
TEXT = st.text(PRINTABLE, min_size=1).filter(lambda text: bool(text.strip()))


@settings(max_examples=25)
@given(pairs=st.lists(st.builds(TextPair, TEXT, TEXT), min_size=1, max_size=5))
def test_what_is_written_is_read_back(pairs: list[TextPair], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"source": "a"}', r"line 2: field 'target' is missing \(fields there: source\)"),
        ('{"source": "a", "target": ""}', "line 2: field 'target' must be a non-empty text, got ''"),
        ('{"source": 7, "target": "b"}', "line 2: field 'source' must be a non-empty text, got 7"),
        ('{"source": "a", ', "line 2: not valid JSON"),
        (
            '{"source": "a", "target": "\\ud800"}',
            "field 'target' has half of a surrogate pair at character 0",
        ),
        ("[" * 100_000, "line 2: not valid JSON .*recursion"),
        ('{"source": ' + "1" * 5000 + "}", "line 2: not valid JSON .*digits"),
        ('["a", "b"]', "line 2: expected an object with fields 'source' and 'target', got list"),
    ],
)
def test_a_faulty_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"source": "a", "target": "b"}}\n{line}\n')
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)


def test_missing_empty_and_binary_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with pytest.raises(DataError, match="does not exist"):
        read_pairs(path)
    path.write_text("\n\n")
    with pytest.raises(DataError, match="is empty"):
        read_pairs(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_pairs(path)
    with pytest.raises(DataError, match=r"holds no train\.jsonl"):
        load_folder(tmp_path / "nowhere")


def test_a_folder_may_lack_all_but_the_training_split(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.jsonl", [TextPair("a", "b")])
    data = load_data(tmp_path)
    assert (len(data.train), data.validation, data.test) == (1, (), ())
    assert list(data.texts()) == ["a", "b"]


def test_fields_can_be_paths(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"translation": {"en": "dog", "de": "Hund"}}\n')
    data = load_data(tmp_path, "translation.en", "translation.de")
    assert data.train == (TextPair("dog", "Hund"),)
    with pytest.raises(DataError, match=r"field 'translation\.ro' is missing"):
        load_data(tmp_path, "translation.en", "translation.ro")


def test_a_name_that_cannot_be_fetched_says_what_to_do() -> None:
    with pytest.raises(DataError, match="could not be fetched.*give a folder with train.jsonl"):
        load_data("no-such-user/no-such-data-set:english")
    with pytest.raises(DataError, match="data folder ./nowhere does not exist"):
        load_data("./nowhere")


def test_the_datasets_library_supplies_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_text('{"document": "long", "summary": "short"}\n')
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    splits = {"train": [{"document": "long", "summary": "short"}], "test": [{"document": "x", "summary": ""}]}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: splits | {"test": splits["train"]})
    assert load_data("xsum", "document", "summary").test == (TextPair("long", "short"),)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: splits)
    with pytest.raises(
        DataError, match="data set 'xsum', test, row 0: field 'summary' must be a non-empty text"
    ):
        load_data("xsum", "document", "summary")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: {"test": splits["test"]})
    with pytest.raises(DataError, match=r"has no split 'train' \(it has test\)"):
        load_data("xsum", "document", "summary")
