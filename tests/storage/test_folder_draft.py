"""Where a folder is saved: links, the current directory, mount points; what killed writers leave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tbt_compile.errors import FormatError, WriteError
from tbt_compile.storage import exchange, folder_draft, locks, model_folder, os_errors
from tbt_compile.storage.ownership import DRAFT


def save(path: str | Path, value: int, *names: str) -> Path:
    """Save a model with one tensor, and further files of the same content."""
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source"
        source.write_text(str(value))
        files = dict.fromkeys(names, source)
        array = np.full(3, value, np.float32)
        return model_folder.write_folder(path, "frozen", {}, {"tensor": array}, files)


def value(path: str | Path) -> int:
    manifest = model_folder.read_manifest(path)
    return int(model_folder.read_tensors(path, manifest)["tensor"][0])


def names(folder: str | Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file())


PLAIN = ["manifest.json", "tensors.safetensors"]


@pytest.fixture(params=["exchange", "two renames"])
def _renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two renames":
        monkeypatch.setattr(exchange, "exchange", lambda *_: False)


@pytest.mark.usefixtures("_renaming")
def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = save(tmp_path / "model", 1, "more/words.txt")
    before = place.stat().st_ino
    with (place / "tensors.safetensors").open("rb") as reader:
        save(place, 2)
        assert reader.read()  # a reader of the old one goes on
    assert place.stat().st_ino != before
    assert (value(place), names(place)) == (2, PLAIN)
    assert os.listdir(tmp_path) == ["model"]


def test_the_exchange_of_this_system(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if exchange.exchange(tmp_path / "one", tmp_path / "other"):
        assert (tmp_path / "one" / "other").exists()
        assert (tmp_path / "other" / "one").exists()
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "one", tmp_path / "missing")


@pytest.mark.usefixtures("_renaming")
@pytest.mark.parametrize("target", ["a model", "nothing", "an empty folder"])
def test_a_link_stays_a_link(tmp_path: Path, target: str) -> None:
    place, link = tmp_path / "disk" / "model", tmp_path / "link"
    place.parent.mkdir()
    if target == "a model":
        save(place, 1)
    elif target == "an empty folder":
        place.mkdir()
    link.symlink_to(place)
    assert save(link, 2) == link
    assert link.is_symlink()
    assert (value(link), value(place)) == (2, 2)
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]
    assert os.listdir(place.parent) == ["model"]


def test_permissions_of_the_folder_are_kept(tmp_path: Path) -> None:
    place = save(tmp_path / "model", 1)
    assert place.stat().st_mode & 0o777 == 0o755
    place.chmod(0o700)
    assert save(place, 2).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("path", [".", "", "../model", "more/.."])
def test_the_current_directory_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    monkeypatch.chdir(place)
    before = place.stat().st_ino
    save(path if path != "more/.." else ".", 1, "more/words.txt", "extra")
    save(path, 2, "other/words.txt")
    assert (value("."), names(".")) == (2, ["manifest.json", "other/words.txt", "tensors.safetensors"])
    assert sorted(os.listdir()) == ["manifest.json", "other", "tensors.safetensors"]
    assert place.stat().st_ino == before
    assert os.listdir(tmp_path) == ["model"]


def test_files_and_folders_of_the_same_name_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(".", 1, "part/words", "flat")
    save(".", 2, "part", "flat/deep/words")
    assert (value("."), Path("part").read_text()) == (2, "2")
    save(".", 3, "part/words", "flat")
    assert (value("."), names(".")) == (3, ["flat", "manifest.json", "part/words", "tensors.safetensors"])


def test_the_current_directory_with_something_else_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text("{}")
    with pytest.raises(FormatError, match="is not a model folder"):
        save(".", 1, "config.json")
    assert os.listdir() == ["config.json"]


@pytest.mark.parametrize("step", range(1, 8))
def test_a_failure_between_two_files_puts_the_old_ones_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.chdir(tmp_path)
    save(".", 1, "more/words.txt", "extra")
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == step:
            raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(FormatError, match=r"cannot write \.: Input/output error"):
            save(".", 2, "new/words.txt", "extra")
    assert value(".") == 1
    assert names(".") == ["extra", "manifest.json", "more/words.txt", "tensors.safetensors"]
    assert sorted(os.listdir()) == ["extra", "manifest.json", "more", "tensors.safetensors"]


@pytest.fixture
def mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    place = tmp_path / "data"
    place.mkdir()
    (tmp_path / "volume").mkdir()
    source = ["-t", "tmpfs", "tmpfs"] if request.param == "tmpfs" else ["--bind", str(tmp_path / "volume")]
    if shutil.which("mount") is None or subprocess.run(["mount", *source, place], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    (place / "lost+found").mkdir()
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("mount", ["tmpfs", "bind"], indirect=True)
def test_a_mount_point(mount: Path) -> None:
    """A bind mount of the same disk looks like any folder; renaming it is what fails."""
    save(mount, 1, "more/words.txt")
    save(mount, 2)
    assert value(mount) == 2
    assert sorted(os.listdir(mount)) == ["lost+found", *PLAIN]
    assert sorted(os.listdir(mount.parent)) == ["data", "volume"]
    save(mount / "sub" / "model", 3)
    assert value(mount / "sub" / "model") == 3


INTERRUPTED = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
import test_folder_draft as tools
from tbt_compile.storage import folder_draft
count = 0
def die(real, at):
    def call(*arguments, **options):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
place, step = sys.argv[1], sys.argv[2]
os.chdir(place if step.startswith("move") else os.path.dirname(place))
if step == "draft":
    object.__setattr__(tools.model_folder.KINDS["frozen"], "write", die(None, 1))
elif step == "exchange":
    folder_draft.put_in_place = die(folder_draft.put_in_place, 1)
elif step == "removal":
    folder_draft.shutil.rmtree = die(None, 1)
else:
    folder_draft._move = die(folder_draft._move, int(step.removeprefix("move ")))
tools.save(place, 2, "new.txt")
"""


@pytest.mark.parametrize(
    "step", ["draft", "exchange", "removal", "move 1", "move 2", "move 3", "move 4", "move 5"]
)
def test_a_killed_writer_leaves_a_draft_that_the_next_save_removes(tmp_path: Path, step: str) -> None:
    place = save(tmp_path / "model", 1, "old.txt")
    here = str(Path(__file__).parent)
    arguments = [str(place), step, here, str(Path(here).parent)]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, *arguments], check=False)
    assert done.returncode == -9
    litter = [path for path in (*tmp_path.iterdir(), *place.iterdir()) if path.name.startswith(DRAFT)]
    assert len(litter) == 1
    if not step.startswith("move") or step == "move 1":
        assert value(place) == (2 if step == "removal" else 1)
    else:
        with pytest.raises(FormatError, match="it has no manifest.json"):
            value(place)
    if step.startswith("move"):
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(place)
            save(".", 3)
    else:
        save(place, 3)
    assert (value(place), names(place)) == (3, PLAIN)
    assert os.listdir(tmp_path) == ["model"]


def test_the_draft_of_a_living_writer_stays(tmp_path: Path) -> None:
    with folder_draft.folder_draft(tmp_path / "other", model_folder._LAYOUT) as draft:
        save(tmp_path / "model", 1)
        assert draft.is_dir()
        (draft / "file").touch()
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


def test_two_drafts_of_one_place(tmp_path: Path) -> None:
    """The last to finish wins."""
    place = tmp_path / "model"
    with folder_draft.folder_draft(place, model_folder._LAYOUT) as draft:
        save(place, 1)
        shutil.copytree(place, draft, dirs_exist_ok=True)
        save(place, 2)
    assert value(place) == 1
    assert os.listdir(tmp_path) == ["model"]


def test_a_draft_inside_a_folder_keeps_it_from_being_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = save(tmp_path / "model", 1, "old.txt")
    monkeypatch.chdir(place)
    with folder_draft.folder_draft(".", model_folder._LAYOUT) as draft:
        assert draft.parent == place
        monkeypatch.chdir(tmp_path)
        save(place, 2, "new.txt")
        assert (value(place), draft.is_dir()) == (2, True)
        save(tmp_path / "third", 3).rename(draft / "third")
        for file in (draft / "third").iterdir():
            file.replace(draft / file.name)
        (draft / "third").rmdir()
    assert (value(place), names(place)) == (3, PLAIN)
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_another_program_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    save(save(tmp_path / "model", 1), 2)
    assert model_folder.read_whole(tmp_path / "model", lambda: value(tmp_path / "model")) == 2
    os.close(handle)
    assert os.listdir(tmp_path) == ["model"]


def test_parents_are_made_and_removed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    place = tmp_path / "a" / "b" / "model"
    patch: Callable[..., None] = monkeypatch.setattr
    with monkeypatch.context():
        patch("tbt_compile.storage.model_folder.fingerprint", fail)
        with pytest.raises(FormatError, match="free some space"):
            save(place, 1)
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert value(save(place, 1)) == 1


def test_a_new_folder_where_none_can_be_made_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    model_folder.require_replaceable(tmp_path / "new" / "model")
    with pytest.raises(WriteError, match="Not a directory"):
        model_folder.require_replaceable(tmp_path / "file" / "new" / "model")
    monkeypatch.setattr(os_errors.os, "access", lambda *_: False)
    with pytest.raises(WriteError, match="new/model: Permission denied"):
        model_folder.require_replaceable(tmp_path / "new" / "model")
    assert os.listdir(tmp_path) == ["file"]
