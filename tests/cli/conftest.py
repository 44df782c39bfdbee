"""Running the command line in the test's own process, and one small model for all of its tests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from once import once, only
from typer.testing import CliRunner

from tbt_compile.cli import console, main
from tbt_compile.cli.app import app
from tbt_compile.data.text_pairs import TextPair, write_pairs
from tbt_compile.training import MODEL_SIZES, ModelSize, TrainJob, TrainSettings, train

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
OTHER_CPU = "haswell" if os.uname().machine == "aarch64" else "cortex-a72"


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


@contextmanager
def smaller() -> Iterator[None]:
    """The smallest size of a model is smaller still: what commands do does not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODEL_SIZES, "tiny", ModelSize(width=32, layers=1, heads=1, inner=32))
        yield


@pytest.fixture(autouse=True)
def _smaller() -> Iterator[None]:
    # Per test, and not per session: a worker runs tests of other folders in between.
    with smaller():
        yield


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder with teacher/ and student-2-2-2/, two steps each."""

    def make(output: Path) -> None:
        settings = TrainSettings(steps=2, batch_size=8)
        job = TrainJob(
            data,
            output,
            vocab_size=300,
            teacher_settings=settings,
            student_settings=settings,
            test_sentences=0,
        )
        with smaller():
            train(job)

    return once(tmp_path_factory, "cli-trained", make)


@pytest.fixture(scope="session")
def several(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with out.txt, what `tbt lower` said of the student for another CPU and this, and model/."""

    def make(folder: Path) -> None:
        options = ["lower", str(trained / "student-2-2-2"), "-o", str(folder / "model")]
        done = CliRunner().invoke(app, [*options, "--target", OTHER_CPU, "--target", "host"])
        assert done.exit_code == 0, done.output
        (folder / "out.txt").write_text(done.stdout)

    return once(tmp_path_factory, "cli-several", make)


@pytest.fixture(scope="session")
def compiled(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student, compiled for this machine, with its tokenizer."""
    import tbt_compile
    from tbt_compile.cli.models import tokenizer_of

    model = tbt_compile.load(several / "model")
    folder = tmp_path_factory.mktemp("models") / "compiled"
    return only(model, model.target.mcpu).save(folder, tokenizer=tokenizer_of(several / "model"))


@pytest.fixture(scope="session")
def wordy(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the end token held back for 12 tokens: after two steps of training it comes at once."""
    import tbt_compile
    from tbt_compile.cli.models import tokenizer_of

    model = tbt_compile.load(compiled)
    model.description["generation"]["min_new_tokens"] = 12
    return model.save(tmp_path_factory.mktemp("models") / "wordy", tokenizer=tokenizer_of(compiled))
