"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tbt_compile.cli.console import write_json
from tbt_compile.errors import WriteError
from tbt_compile.storage import os_errors
from tbt_compile.storage.atomic_write import atomic_write, require_writable, save_json


def write_half(draft: Path) -> None:
    draft.write_text("ne")
    raise OSError("disk full")


def test_readers_see_the_old_file_until_the_new_one_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_when_writing_fails_the_old_file_stays_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as draft:
        write_half(draft)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with atomic_write(link) as draft:
        draft.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_stays_a_device() -> None:
    with atomic_write(os.devnull) as draft:
        draft.write_text("new")
    assert Path(os.devnull).is_char_device()


def test_figures_for_a_folder_that_is_not_there(tmp_path: Path) -> None:
    write_json({}, tmp_path / "missing" / "figures.json")
    assert (tmp_path / "missing" / "figures.json").read_text() == "{}\n"
    with pytest.raises(WriteError, match="cannot write .*figures.json/more.json: File exists"):
        write_json({}, tmp_path / "missing" / "figures.json" / "more.json")


def test_what_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in ("new", "file", "missing/new"):
        require_writable(tmp_path / place)
    require_writable(os.devnull)
    for place in ("", "file/new", "file/missing/new"):
        with pytest.raises(WriteError, match=f"cannot write {tmp_path / place}: "):
            require_writable(tmp_path / place)
    monkeypatch.setattr(os_errors.os, "access", lambda *_: False)
    require_writable(os.devnull)
    for place in ("new", "file"):
        with pytest.raises(WriteError, match="Permission denied; choose a place that you may write to"):
            require_writable(tmp_path / place)
    assert os.listdir(tmp_path) == ["file"]


def test_json_is_indented_and_ends_with_a_line_feed(tmp_path: Path) -> None:
    save_json(tmp_path / "scores.json", {"text": "größer"})
    assert (tmp_path / "scores.json").read_text(encoding="utf-8") == '{\n  "text": "größer"\n}\n'


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_write(path) as draft:
        draft.write_text("new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_threads_do_not_share_a_draft(tmp_path: Path) -> None:
    path, started = tmp_path / "file", Barrier(2)

    def write(text: str) -> Path:
        with atomic_write(path) as draft:
            started.wait(10)
            draft.write_text(text)
            started.wait(10)
        return draft

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(write, ["a" * 1000, "b" * 1000])
    assert first != second
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]
