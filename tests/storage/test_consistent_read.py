"""Reading while others write: always one of the models that were saved, as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tbt_compile.errors import FormatError
from tbt_compile.storage import locks, model_folder
from tbt_compile.storage.consistent_read import read_consistently

WRITER = Path(__file__).with_name("concurrent.py")


def write(path: Path, number: int) -> Path:
    tensors = {"number": np.full(1000 + number, number, np.int64)}
    return model_folder.write_folder(path, "frozen", {"number": number}, tensors)


def read(path: Path) -> int:
    def both() -> tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        manifest = model_folder.read_manifest(path)
        return manifest["number"], model_folder.read_tensors(path, manifest)["number"]

    number, tensor = model_folder.read_whole(path, both)
    assert (tensor == number).all()
    assert len(tensor) == 1000 + number
    return number


@pytest.mark.parametrize("how", ["exchange", "rename twice", "file by file"])
def test_two_writers_and_a_reader(tmp_path: Path, how: str) -> None:
    place = write(tmp_path / "model", 0)
    count = 150
    writers = [
        subprocess.Popen(
            [sys.executable, str(WRITER), str(place), str(count), str(first), how], stderr=subprocess.PIPE
        )
        for first in (1000, 2000)
    ]
    seen = []
    while any(writer.poll() is None for writer in writers):
        seen.append(read(place))
        assert model_folder.peek_kind(place) == "frozen"
        if how == "exchange":
            assert (place / model_folder.MANIFEST).is_file()
    assert [writer.communicate()[1].decode() for writer in writers] == ["", ""]
    assert read(place) in (1000 + count - 1, 2000 + count - 1)
    assert len(set(seen)) > 1
    assert os.listdir(tmp_path) == ["model"]
    assert len(os.listdir(place)) == 3


@pytest.mark.parametrize("when", ["before the tensors", "after the tensors"])
def test_a_folder_replaced_while_it_is_read_is_read_again(tmp_path: Path, when: str) -> None:
    place = write(tmp_path / "model", 1)
    calls = []

    def slowly() -> tuple[int, int]:
        calls.append(when)
        manifest = model_folder.read_manifest(place)
        if len(calls) == 1 and when == "before the tensors":
            write(place, 2)
        tensors = model_folder.read_tensors(place, manifest)
        if len(calls) == 1 and when == "after the tensors":
            write(place, 2)
        return manifest["number"], int(tensors["number"][0])

    assert model_folder.read_whole(place, slowly) == (2, 2)
    assert len(calls) == 2


def test_a_folder_that_is_always_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks do not work, a mixture is refused."""
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    place = write(tmp_path / "model", 0)
    numbers = iter(range(1, 9))

    def never() -> None:
        write(place, next(numbers))

    with pytest.raises(FormatError, match="model was replaced again and again while it was read: load it"):
        model_folder.read_whole(place, never)
    assert next(numbers) == 3


def test_a_damaged_folder_is_read_once(tmp_path: Path) -> None:
    place = write(tmp_path / "model", 1)
    (place / "tensors.safetensors").write_bytes(b"")
    calls = []

    def once() -> None:
        calls.append(1)
        model_folder.read_manifest(place)

    with pytest.raises(FormatError, match="truncated"):
        model_folder.read_whole(place, once)
    assert calls == [1]


def test_errors_of_the_system_are_one_sentence(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(
        FormatError, match="cannot read .*model: Input/output error; copy the whole folder ag"
    ):
        read_consistently(write(tmp_path / "model", 1), model_folder.MANIFEST, fail)
    with pytest.raises(FormatError, match="cannot read .*: File name too long; check the path"):
        model_folder.peek_kind(tmp_path / ("n" * 300))
