"""Model folders: complete or absent, and refused with one clear error when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensors import TENSORS, Array, same

from tbt_compile.errors import FormatError
from tbt_compile.storage import exchange, model_folder

KINDS = sorted(model_folder.KINDS)


def write(path: Path, tensors: dict[str, Array] | None = None, kind: str = "frozen", **manifest: Any) -> Path:
    return model_folder.write_folder(path, kind, manifest, TENSORS if tensors is None else tensors)


def read(path: Path) -> dict[str, Array]:
    return model_folder.read_tensors(path, model_folder.read_manifest(path))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / model_folder.MANIFEST
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "sub" / "model", kind=kind, recipe={"name": "2-2-2"}, note="ä")
    manifest = model_folder.read_manifest(folder)
    assert manifest["recipe"] == {"name": "2-2-2"}
    assert manifest["note"] == "ä"
    assert (manifest["kind"], manifest["version"]) == (kind, model_folder.KINDS[kind].version)
    assert model_folder.peek_kind(folder) == kind
    loaded = read(folder)
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert same(loaded[name], tensor), name
    assert sorted(contents(folder)) == [model_folder.MANIFEST, model_folder.KINDS[kind].tensors]
    assert model_folder.folder_bytes(folder) == sum(map(len, contents(folder).values()))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_further_files_come_along(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a b c")
    files = {"tokenizer.txt": tmp_path / "words.txt", "more/deep.txt": tmp_path / "words.txt"}
    folder = model_folder.write_folder(tmp_path / "model", "compiled", {}, {}, files)
    assert (folder / "more" / "deep.txt").read_text() == "a b c"
    assert set(model_folder.read_manifest(folder)["files"]) == {
        model_folder.KINDS["compiled"].tensors,
        *files,
    }


def test_a_saved_model_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "extra").write_text("old")
    folder = model_folder.write_folder(
        tmp_path / "model", "frozen", {}, TENSORS, {"extra": tmp_path / "extra"}
    )
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


@pytest.mark.parametrize(
    "step", ["model_folder.shutil.copyfile", "model_folder.fingerprint", "folder_draft.put_in_place"]
)
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
        patched.setattr(f"tbt_compile.storage.{step}", fail)
        with pytest.raises(KeyboardInterrupt):
            model_folder.write_folder(place, "frozen", {}, TENSORS, {"a copy": Path(__file__)})
    assert contents(place) == old
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if old else [])


def test_an_old_model_comes_back_when_the_new_one_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "model", {"old": np.ones(3, np.float32)})
    real, calls = exchange.os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError("disk full")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(exchange, "exchange", lambda *_: False)
        patched.setattr(exchange.os, "replace", replace)
        with pytest.raises(OSError, match="disk full"):
            write(place)
    assert len(calls) == 4
    assert list(read(place)) == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def tensors_of(folder: Path) -> Path:
    return folder / model_folder.KINDS[model_folder.peek_kind(folder)].tensors


def _truncate(folder: Path) -> None:
    file = tensors_of(folder)
    file.write_bytes(file.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    file = tensors_of(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def _halve_manifest(folder: Path) -> None:
    file = folder / model_folder.MANIFEST
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _not_text(folder: Path) -> None:
    (folder / model_folder.MANIFEST).write_bytes(b"\xff\xfe\x00")


def _lose_tensors(folder: Path) -> None:
    tensors_of(folder).unlink()


def _lose_manifest(folder: Path) -> None:
    (folder / model_folder.MANIFEST).unlink()


def _newer(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(version=99))


def _other_bits(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["recipe"].update(bits=1))


def _foreign(folder: Path) -> None:
    (folder / model_folder.MANIFEST).write_text('{"format": "something", "version": 1}')


def _a_list(folder: Path) -> None:
    (folder / model_folder.MANIFEST).write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"tensors\.\w+ has \d+ bytes instead of \d+: it is truncated"),
        (_flip_a_bit, r"tensors\.\w+ was altered: its checksum differs from the recorded one"),
        (_lose_tensors, r"tensors\.\w+ is missing: copy the whole folder again"),
        (_lose_manifest, "is not a model folder: it has no manifest.json"),
        (_halve_manifest, "manifest.json is damaged"),
        (_not_text, "manifest.json is damaged"),
        (_newer, "has format version 99, and this release reads version"),
        (_other_bits, "manifest.json was altered: its checksum differs from the recorded one"),
        (_foreign, "manifest.json was not written by tbt-compile"),
        (_a_list, "manifest.json was not written by tbt-compile"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str, kind: str) -> None:
    folder = write(tmp_path / "model", kind=kind, recipe={"bits": 2})
    damage(folder)
    with pytest.raises(FormatError, match=message):
        model_folder.read_manifest(folder)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("frozen", "has format version 0, and this release reads version 1 of frozen models: save the model"),
        (
            "compiled",
            "has format version 0, and this release reads version 8 of compiled models: lower the mo",
        ),
    ],
)
def test_an_older_version_says_how_to_get_a_newer_one(tmp_path: Path, kind: str, message: str) -> None:
    folder = write(tmp_path / "model", kind=kind)
    edit_manifest(folder, lambda manifest: manifest.update(version=0))
    with pytest.raises(FormatError, match=message):
        model_folder.read_manifest(folder)


def test_another_kind(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    with pytest.raises(FormatError, match="model holds a frozen model: expected a compiled one"):
        model_folder.read_manifest(folder, "compiled")
    edit_manifest(folder, lambda manifest: manifest.update(kind="molten"))
    with pytest.raises(FormatError, match="holds a molten model: expected one that is frozen or compiled"):
        model_folder.read_manifest(folder)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere is not a model folder: it does not exist"):
        model_folder.read_manifest(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match="it is a checkpoint of transformers, which `tbt lower` compiles"):
        model_folder.read_manifest(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="file is not a model folder"):
        model_folder.peek_kind(tmp_path / "file")


def test_a_moved_folder_reads_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    shutil.copytree(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    assert all(same(read(tmp_path / "copy")[name], tensor) for name, tensor in TENSORS.items())
