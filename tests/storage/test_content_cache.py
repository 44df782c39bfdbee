"""The cache of results: shared by processes, checked, bounded, never in the way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tbt_compile.errors import TbtError
from tbt_compile.storage.content_cache import FOLDER, LIMIT, ContentCache, key_of, user_cache

WRITER = """
import sys
from pathlib import Path
from tbt_compile.storage.content_cache import ContentCache, key_of
cache = ContentCache(Path(sys.argv[1]), 300_000)
for turn in range(200):
    key = key_of("content", str(turn % 20))
    content = cache.read(key)
    assert content is None or content == key.encode() * 200, turn
    cache.write(key, key.encode() * 200)
"""


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache, key = ContentCache(tmp_path / "cache", 1000), key_of("a")
    assert cache.read(key) is None
    cache.write(key, b"content")
    assert ContentCache(tmp_path / "cache", 1000).read(key) == b"content"
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_keys_depend_on_every_part_and_on_where_it_ends() -> None:
    assert len({key_of("ab"), key_of("a", "b"), key_of("b", "a"), key_of("a", "b", "")}) == 4


@pytest.mark.parametrize("damaged", [b"", b"short", None], ids=["empty", "short", "one bit"])
def test_a_damaged_file_is_dropped(
    damaged: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, key = ContentCache(tmp_path, 1000), key_of("a")
    cache.write(key, b"content")
    stored = bytearray((tmp_path / key).read_bytes())
    stored[-1] ^= 1
    (tmp_path / key).write_bytes(bytes(stored) if damaged is None else damaged)
    assert cache.read(key) is None
    assert "damaged" in caplog.text
    assert list(tmp_path.iterdir()) == []
    cache.write(key, b"content")
    assert cache.read(key) == b"content"


def test_the_least_recently_used_files_make_room(tmp_path: Path) -> None:
    cache, keys = ContentCache(tmp_path, 1000), [key_of(str(index)) for index in range(10)]
    (tmp_path / "notes.txt").write_bytes(bytes(5000))  # not of the cache
    for age, key in enumerate(keys[:8]):
        cache.write(key, bytes(68))
        os.utime(tmp_path / key, (age, age))
    assert cache.read(keys[0]) is not None  # used now
    for key in keys[8:]:
        cache.write(key, bytes(168))
        cache.write(key_of(key), bytes(68))
    (tmp_path / "notes.txt").unlink()
    assert size(tmp_path) <= 1000
    assert cache.read(keys[0]) is not None
    assert cache.read(keys[1]) is None
    assert cache.read(keys[9]) is not None


def test_content_larger_than_the_cache_is_not_stored(tmp_path: Path) -> None:
    ContentCache(tmp_path, 1000).write(key_of("a"), bytes(1000))
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, new = (tmp_path / f".{'a' * 32}.{digit * 16}.part" for digit in "01")
    for draft in (old, new):
        draft.write_bytes(bytes(700))
    hours_ago = time.time() - 10_000
    os.utime(old, (hours_ago, hours_ago))
    ContentCache(tmp_path, 1000).write(key_of("a"), bytes(200))
    assert not old.exists()
    assert new.exists()


def test_a_place_that_cannot_be_written_costs_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = ContentCache(tmp_path / "file" / "cache", 1000)
    for _ in range(2):
        cache.write(key_of("a"), b"content")
        assert cache.read(key_of("a")) is None
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 2  # to read, and to write
    assert FOLDER in caplog.text


def test_two_processes_read_and_write_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert 0 < size(tmp_path) <= 300_000


def test_the_environment_names_the_folder_and_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.delenv(LIMIT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = user_cache()
    assert cache is not None and cache.folder == tmp_path / "tbt_compile"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = user_cache()
    assert cache is not None and cache.folder == tmp_path / ".cache" / "tbt_compile"
    monkeypatch.setenv(FOLDER, str(tmp_path / "mine"))
    monkeypatch.setenv(LIMIT, "3")
    cache = user_cache()
    assert cache is not None and (cache.folder, cache.limit) == (tmp_path / "mine", 3 * 2**20)
    monkeypatch.setenv(LIMIT, "many")
    with pytest.raises(TbtError, match="TBT_CACHE_MIB.*'many'"):
        user_cache()
    monkeypatch.setenv(FOLDER, "off")
    assert user_cache() is None


def test_a_file_under_another_name_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ContentCache(tmp_path, 2**20)
    first, second = key_of("first"), key_of("second")
    cache.write(first, b"one")
    (tmp_path / second).write_bytes((tmp_path / first).read_bytes())
    assert cache.read(first) == b"one"
    assert cache.read(second) is None
    assert "is damaged, and is made again" in caplog.text


@pytest.mark.parametrize("value", ["off", "OFF", "Off"])
def test_off_in_any_case(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBT_CACHE", value)
    assert user_cache() is None


def test_the_home_folder_has_a_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBT_CACHE", "~/kernels")
    cache = user_cache()
    assert cache is not None and cache.folder == Path.home() / "kernels"
