"""Two compiled models for all tests of the runtime."""

from __future__ import annotations

import pytest
from compiled_tools import Case
from models import LONG_POSITIONS, bart, t5


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A BART at 2-2-2 whose own settings are two beams and 9 tokens."""
    model = bart(max_position_embeddings=LONG_POSITIONS)
    model.generation_config.max_new_tokens = 9
    model.generation_config.num_beams = 2
    return Case.shared(model, "2-2-2", "bart", tmp_path_factory)


@pytest.fixture(scope="session")
def t5_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A T5 of one layer at 1-1-1."""
    return Case.shared(t5(layers=1), "1-1-1", "t5", tmp_path_factory)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow two threads to be asked for; Python threads that start from now on get a pool of two."""
    monkeypatch.setenv("TVM_NUM_THREADS", "2")
