"""Running the command line in the test's own process, and one small model for all of its tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tbt_compile.cli import console, main
from tbt_compile.data.text_pairs import TextPair, write_pairs
from tbt_compile.training import TrainJob, TrainSettings, train

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> dict:
        """Standard output as JSON."""
        return json.loads(self.out)


@pytest.fixture
def tbt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `tbt` with these arguments."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["tbt", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(console.out, "width", 200)
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose target is the source backwards."""
    folder = tmp_path_factory.mktemp("data")
    texts = [[WORDS[(i * step + j) % 10] for j in range(4)] for i in range(10) for step in (1, 3, 7)]
    pairs = [TextPair(" ".join(words), " ".join(reversed(words))) for words in texts]
    write_pairs(folder / "train.jsonl", pairs)
    write_pairs(folder / "test.jsonl", pairs[:4])
    return folder


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder with teacher/ and student-2-2-2/, two steps each."""
    output = tmp_path_factory.mktemp("trained")
    settings = TrainSettings(steps=2, batch_size=8)
    job = TrainJob(
        data, output, vocab_size=300, teacher_settings=settings, student_settings=settings, test_sentences=0
    )
    train(job)
    return output


@pytest.fixture(scope="session")
def compiled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student, compiled for this machine, with its tokenizer."""
    import tbt_compile
    from tbt_compile.cli.models import tokenizer_of
    from tbt_compile.preparation import load_prepared

    student = trained / "student-2-2-2"
    folder = tmp_path_factory.mktemp("models") / "compiled"
    return tbt_compile.lower(load_prepared(student)).save(folder, tokenizer=tokenizer_of(student))


@pytest.fixture(scope="session")
def wordy(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the end token held back for 12 tokens: after two steps of training it comes at once."""
    import tbt_compile
    from tbt_compile.cli.models import tokenizer_of

    model = tbt_compile.load(compiled)
    model.description["generation"]["min_new_tokens"] = 12
    return model.save(tmp_path_factory.mktemp("models") / "wordy", tokenizer=tokenizer_of(compiled))
