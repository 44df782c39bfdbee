"""Copies and pickles of compiled models, also in other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from compiled_tools import Case, sources
from models import PAD

import tbt_compile
from tbt_compile import CompiledModel, CompiledModelForSeq2SeqLM
from tbt_compile.errors import FormatError

IDS, MASK = sources(PAD)


def tokens(model: CompiledModel) -> list[list[int]]:
    return model.generate(IDS, MASK).tolist()


@pytest.fixture
def moved(case: Case, tmp_path: Path) -> CompiledModel:
    """A model that was loaded from a folder of its own, in `tmp_path / "model"`."""
    return tbt_compile.load(shutil.copytree(case.folder, tmp_path / "model"))  # type: ignore[return-value]


def test_copies_share_weights_and_library(case: Case) -> None:
    for copied in (copy.copy(case.compiled), copy.deepcopy(case.compiled)):
        assert copied is not case.compiled
        assert copied._tensors is case.compiled._tensors
        assert copied._bound() is case.compiled._bound()
        assert tokens(copied) == tokens(case.compiled)
    assert copied.description is not case.compiled.description


def test_a_pickle_names_the_folder_while_it_is_there(moved: CompiledModel, tmp_path: Path) -> None:
    moved.num_threads = 1
    by_folder = pickle.dumps(moved)
    assert len(by_folder) < 1000
    again = pickle.loads(by_folder)
    assert tokens(again) == tokens(moved)
    assert again.num_threads == 1
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(FormatError, match="no longer holds the model that was pickled"):
        pickle.loads(by_folder)
    with_files = pickle.dumps(moved)
    assert len(with_files) > 10_000
    again = pickle.loads(with_files)
    assert tokens(pickle.loads(pickle.dumps(again))) == tokens(moved)


def test_a_folder_that_holds_another_model_is_not_taken(
    moved: CompiledModel, t5_case: Case, tmp_path: Path
) -> None:
    by_folder, expected = pickle.dumps(moved), tokens(moved)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(t5_case.folder, tmp_path / "model")
    with pytest.raises(FormatError, match="no longer holds the model"):
        pickle.loads(by_folder)
    assert tokens(pickle.loads(pickle.dumps(moved))) == expected


def test_in_a_spawned_process(moved: CompiledModel, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        by_folder = pool.apply(tokens_elsewhere, (moved,))
        shutil.rmtree(tmp_path / "model")
        with_files = pool.apply(tokens_elsewhere, (moved,))
    assert by_folder == with_files == tokens(moved)


def tokens_elsewhere(model: CompiledModel) -> list[list[int]]:
    return tokens(model)


def test_behind_transformers_generate(case: Case) -> None:
    model = CompiledModelForSeq2SeqLM(case.compiled)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert np.array_equal(copied.compiled.generate(IDS, MASK), case.compiled.generate(IDS, MASK))
