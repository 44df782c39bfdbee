"""Model folders: lossless, complete or absent, and refused with one clear error when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tbt_compile import storage
from tbt_compile.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

TENSORS: dict[str, Array] = {
    "packed": np.array([[[-1, 2**62]], [[0, -(2**63)]]], np.int64),
    "bytes": np.arange(-127, 128, dtype=np.int8).reshape(5, 51),
    "scale": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    "empty": np.empty((0, 7), np.float32),
    "no_bytes": np.empty((3, 0), np.int8),
    "scalar": np.array(0.1, np.float32),
    "count": np.array(7, np.int64),
    "flag": np.array(True),
    "half": np.array([[1.5, -2.25]], np.float16),
    "double": np.array([1 / 3]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(12, dtype=np.int64)[::3],
}


def write(path: Path, tensors: dict[str, Array] | None = None, **manifest: Any) -> Path:
    return storage.write_folder(path, "frozen", manifest, TENSORS if tensors is None else tensors)


def read(path: Path) -> dict[str, Array]:
    return storage.read_tensors(path, storage.read_manifest(path, "frozen"))


def same(left: Array, right: Array) -> bool:
    """Equal in dtype, shape and every bit."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / storage.MANIFEST
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def test_round_trip(tmp_path: Path) -> None:
    folder = write(tmp_path / "sub" / "model", recipe={"name": "2-2-2"}, note="ä")
    manifest = storage.read_manifest(folder)
    assert manifest["recipe"] == {"name": "2-2-2"}
    assert manifest["note"] == "ä"
    assert (manifest["kind"], manifest["version"]) == ("frozen", storage.VERSION)
    assert storage.peek_kind(folder) == "frozen"
    loaded = read(folder)
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert same(loaded[name], tensor), name
    assert sorted(contents(folder)) == [storage.MANIFEST, storage.TENSORS]
    assert storage.folder_bytes(folder) == sum(map(len, contents(folder).values()))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    )
)
def test_coding_is_lossless(tensor: Array) -> None:
    entry = storage.describe(tensor)
    stored = storage.encode(tensor)
    assert same(storage.decode(stored, entry), tensor)


def test_neighbouring_floats_take_less_room() -> None:
    weights = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    assert storage.encode(weights).nbytes < 0.9 * weights.nbytes


def test_further_files_come_along(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a b c")
    files = {"tokenizer.txt": tmp_path / "words.txt", "more/deep.txt": tmp_path / "words.txt"}
    folder = storage.write_folder(tmp_path / "model", "compiled", {}, {}, files)
    assert (folder / "more" / "deep.txt").read_text() == "a b c"
    assert set(storage.read_manifest(folder)["files"]) == {storage.TENSORS, *files}


def test_a_saved_model_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "extra").write_text("old")
    folder = storage.write_folder(tmp_path / "model", "frozen", {}, TENSORS, {"extra": tmp_path / "extra"})
    write(folder, {"only": np.ones(3, np.float32)})
    assert list(read(folder)) == ["only"]
    assert "extra" not in contents(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extra", "model"]


def test_an_empty_folder_is_a_free_place(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert read(write(tmp_path / "model")).keys() == TENSORS.keys()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_something_else_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mine"
    if kind == "file":
        place.write_text("thesis")
    else:
        place.mkdir()
        (place / "thesis.txt").write_text("thesis")
    with pytest.raises(
        FormatError, match="mine exists and is not a model folder: remove it or choose another"
    ):
        write(place)
    assert (place if kind == "file" else place / "thesis.txt").read_text() == "thesis"


@pytest.mark.parametrize("step", ["save_file", "_fingerprint", "_replace"])
@pytest.mark.parametrize("before", ["nothing", "a model"])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: str
) -> None:
    place = tmp_path / "model"
    if before == "a model":
        write(place, {"old": np.ones(3, np.float32)})
    old = contents(place)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(storage, step, fail)
        with pytest.raises(KeyboardInterrupt):
            write(place)
    assert contents(place) == old
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if old else [])


def test_an_old_model_comes_back_when_the_new_one_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "model", {"old": np.ones(3, np.float32)})
    real, calls = storage.os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("disk full")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(storage.os, "replace", replace)
        with pytest.raises(OSError, match="disk full"):
            write(place)
    assert len(calls) == 3
    assert list(read(place)) == ["old"]


def _truncate(folder: Path) -> None:
    file = folder / storage.TENSORS
    file.write_bytes(file.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    file = folder / storage.TENSORS
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def _halve_manifest(folder: Path) -> None:
    file = folder / storage.MANIFEST
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _not_text(folder: Path) -> None:
    (folder / storage.MANIFEST).write_bytes(b"\xff\xfe\x00")


def _lose_tensors(folder: Path) -> None:
    (folder / storage.TENSORS).unlink()


def _lose_manifest(folder: Path) -> None:
    (folder / storage.MANIFEST).unlink()


def _newer(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(version=99))


def _other_bits(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["recipe"].update(bits=1))


def _foreign(folder: Path) -> None:
    (folder / storage.MANIFEST).write_text('{"format": "something", "version": 1}')


def _a_list(folder: Path) -> None:
    (folder / storage.MANIFEST).write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"tensors.safetensors has \d+ bytes instead of \d+: it is truncated"),
        (_flip_a_bit, "tensors.safetensors was altered: its checksum is not the recorded one"),
        (_lose_tensors, "tensors.safetensors is missing: copy the whole folder again"),
        (_lose_manifest, "is not a model folder: it has no manifest.json"),
        (_halve_manifest, "manifest.json is damaged"),
        (_not_text, "manifest.json is damaged"),
        (_newer, "has format version 99, and this release reads version 1: save the model again"),
        (_other_bits, "manifest.json was altered: its checksum is not the recorded one"),
        (_foreign, "manifest.json was not written by tbt-compile"),
        (_a_list, "manifest.json was not written by tbt-compile"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = write(tmp_path / "model", recipe={"bits": 2})
    damage(folder)
    with pytest.raises(FormatError, match=message):
        storage.read_manifest(folder)


def test_a_tensor_file_that_is_no_safetensors(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    manifest = storage.read_manifest(folder)
    (folder / storage.TENSORS).write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=r"tensors\.safetensors is damaged"):
        storage.read_tensors(folder, manifest)


def test_another_kind(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    with pytest.raises(FormatError, match="model holds a frozen model: expected a compiled one"):
        storage.read_manifest(folder, "compiled")


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere is not a model folder"):
        storage.read_manifest(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="file is not a model folder"):
        storage.peek_kind(tmp_path / "file")


def test_a_moved_folder_reads_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    shutil.copytree(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    assert all(same(read(tmp_path / "copy")[name], tensor) for name, tensor in TENSORS.items())
