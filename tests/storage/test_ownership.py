"""What a save may replace: nothing that this package did not write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensors import TENSORS

from tbt_compile.errors import FormatError
from tbt_compile.storage import model_folder
from tbt_compile.storage.ownership import DRAFT

FOREIGN = "exists and is not a model folder: remove it or choose another place"


def write(path: Path, files: dict[str, Path] | None = None) -> Path:
    return model_folder.write_folder(path, "frozen", {}, TENSORS, files)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refuse(folder: Path, message: str) -> None:
    """Both the check before any work and the save refuse, and everything is as it was."""
    before = snapshot(folder.parent)
    for save in (model_folder.require_replaceable, write):
        with pytest.raises(FormatError, match=message):
            save(folder)
    assert snapshot(folder.parent) == before


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "my web app", "start_url": "/"}',
        '{"format": "tbt-compile"}',
        '{"format": "tbt-compile", "version": 1, "kind": "frozen", "files": {"thesis.txt": {}}}',
        '{"format": "tbt-compile", "checksum": 1, "files": ["thesis.txt"]}',
        "[]",
        "",
        "not JSON",
    ],
)
def test_a_foreign_manifest(tmp_path: Path, content: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text(content)
    (site / "thesis.txt").write_text("years of work")
    refuse(site, f"site {FOREIGN}")


def test_an_altered_manifest_is_not_ours_any_more(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    file = folder / model_folder.MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "note": "mine"}))
    refuse(folder, FOREIGN)


def _file(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def _hidden(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")


def _deep(folder: Path) -> None:
    (folder / "more" / "notes.txt").write_text("mine")


def _empty_folder(folder: Path) -> None:
    (folder / "plans").mkdir()


def _link(folder: Path) -> None:
    (folder / "data").symlink_to("/usr")


def _broken_link(folder: Path) -> None:
    (folder / "data").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("add", "name"),
    [
        (_file, "notes.txt"),
        (_hidden, ".git"),
        (_deep, "more/notes.txt"),
        (_empty_folder, "plans"),
        (_link, "data"),
        (_broken_link, "data"),
    ],
)
def test_what_the_user_added_is_named(tmp_path: Path, add: Callable[[Path], None], name: str) -> None:
    (tmp_path / "words").write_text("a b c")
    folder = write(tmp_path / "model", {"more/words.txt": tmp_path / "words"})
    add(folder)
    refuse(folder, f"model holds {name}, which is not part of the model saved there: move it away or choose")


def test_a_model_with_a_file_lost_is_still_ours(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a b c")
    folder = write(tmp_path / "model", {"more/words.txt": tmp_path / "words"})
    (folder / "more" / "words.txt").unlink()
    (folder / ".DS_Store").write_bytes(b"of a file manager")
    write(folder)
    assert {path.name for path in folder.iterdir()} == {model_folder.MANIFEST, "tensors.safetensors"}


@pytest.mark.parametrize("what", ["file", "link to a file", "pipe"])
def test_what_is_no_folder(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "pipe":
        os.mkfifo(place)
    elif what == "file":
        place.write_text("thesis")
    else:
        (tmp_path / "target").write_text("thesis")
        place.symlink_to("target")
    refuse(place, f"place {FOREIGN}")


def test_a_file_that_appears_while_the_model_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment before the exchange, and between the last check and the exchange."""
    folder = write(tmp_path / "model")
    for place in ("model_folder.fingerprint", "folder_draft.put_in_place"):
        module, name = place.split(".")
        real = getattr(__import__(f"tbt_compile.storage.{module}", fromlist=[name]), name)

        def late(*arguments: object, real: Callable[..., object] = real) -> object:
            (folder / "thesis.txt").write_text("years of work")
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(f"tbt_compile.storage.{place}", late)
            with pytest.raises(FormatError, match=r"model holds thesis.txt"):
                model_folder.write_folder(folder, "frozen", {}, {"new": np.ones(2, np.float32)})
        assert model_folder.read_tensors(folder, model_folder.read_manifest(folder)).keys() == TENSORS.keys()
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        (folder / "thesis.txt").unlink()


def test_a_file_in_the_name_of_a_draft_does_not_count_as_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    (folder / f"{DRAFT}mine").write_text("thesis")
    refuse(folder, f"model holds {DRAFT}mine")
