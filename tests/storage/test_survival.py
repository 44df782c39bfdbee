"""A sample of examples/benchmarks/survival.py: an interrupted save leaves the model that was there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import golden_folders as golden
import pytest

import tbt_compile
from tbt_compile.storage import model_folder

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
TIMES = 8
COMPILED = [
    golden.FOLDERS / golden.name_of(model_folder.GENERATOR, "x86-64"),
    golden.FOLDERS / golden.name_of(model_folder.GENERATOR, "aarch64"),
]


@pytest.fixture
def survival() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import survival

        yield survival
    sys.modules.pop("survival", None)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a folder is saved; other users may enter."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve() / "home"
        home.mkdir()
        home.parent.chmod(0o755)
        yield home / "model"


@pytest.mark.parametrize(("interrupt", "longest"), [("killed", 0.1), ("filled", 5e5), ("closed", 0.1)])
def test_an_interrupted_save_leaves_a_whole_model(
    survival: ModuleType, place: Path, interrupt: str, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tbt_compile, "load", tbt_compile.CompiledModel.read)  # one is for another machine
    models = [tbt_compile.CompiledModel.read(folder) for folder in COMPILED]
    task = survival.saving(models, 1 if interrupt == "filled" else 10**6)
    result = survival.series(getattr(survival, interrupt), task, models, place, longest, TIMES)
    assert result["faults"] == []
    assert result["times"] == TIMES


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of forks of processes with threads, in Python 3.12
def test_interrupted_training_is_taken_up_again(survival: ModuleType, tmp_path: Path) -> None:
    results = dict(survival.trains(tmp_path, 3))
    assert [result["faults"] for result in results.values()] == [[], []]
    assert results["train, filled"]["refused"] > 0
