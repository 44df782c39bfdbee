"""What the system refuses becomes one sentence with the path, and nothing half-written remains."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tbt_compile.errors import FormatError, WriteError
from tbt_compile.storage import model_folder
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.storage.os_errors import writing


def write(path: str | Path, kind: str = "frozen") -> Path:
    return model_folder.write_folder(path, kind, {}, {"tensor": np.zeros(100_000, np.int8)})


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "No space left on device; free some space, or choose a place on another disk"),
        (errno.EROFS, "Read-only file system; choose a place that is not read-only"),
        (errno.EACCES, "Permission denied; choose a place that you may write to"),
        (errno.EIO, "Input/output error; choose another place"),
    ],
)
def test_the_sentence(code: int, hint: str) -> None:
    with pytest.raises(WriteError, match=f"^cannot write here: {hint}") as caught, writing("here"):
        raise OSError(code, os.strerror(code), "/tmp/somewhere/else")
    assert caught.value.errno == code
    with pytest.raises(WriteError, match=f"^cannot write here: {hint}"), writing("here"), writing("here"):
        raise Exception(f"{os.strerror(code)} (os error {code})")  # as the tokenizers package says it


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), writing("here"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file/model", "(Not a directory|File exists); part of the path is a file"),
        ("n" * 300, "File name too long; choose a shorter name"),
        ("new/" + "n" * 300 + "/model", "File name too long; choose a shorter name"),
        ("loop/model", "(Too many levels of symbolic links|File exists)"),
    ],
)
def test_bad_paths(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file").write_text("thesis")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(WriteError, match=f"cannot write .*: {message}"):
        write(tmp_path / path)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_the_longest_name(tmp_path: Path) -> None:
    name = "ä" * 127
    write(write(tmp_path / name))
    save_json(tmp_path / f"{name[1:]}.j", {})
    assert len(os.listdir(tmp_path)) == 2


LIMITED = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
import test_os_errors as tools
from tbt_compile.errors import WriteError
from tbt_compile.storage.atomic_write import save_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for write in (
    lambda: tools.write(sys.argv[1] + "/frozen"),
    lambda: tools.write(sys.argv[1] + "/compiled", "compiled"),
    lambda: save_json(tools.Path(sys.argv[1]) / "file", "x" * 20_000),
):
    try:
        write()
    except WriteError as error:
        print(error)
"""


@pytest.mark.parametrize("before", ["nothing", "a model"])
def test_a_disk_that_takes_no_more(tmp_path: Path, before: str) -> None:
    if before == "a model":
        write(tmp_path / "frozen")
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", LIMITED, str(tmp_path), str(here), str(here.parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    sentences = done.stdout.splitlines()
    assert len(sentences) == 3, done.stderr
    for name, sentence in zip(("frozen", "compiled", "file"), sentences, strict=True):
        assert sentence.startswith(f"cannot write {tmp_path / name}: File too large; choose a place that may")
    assert os.listdir(tmp_path) == (["frozen"] if before == "a model" else [])
    if before == "a model":
        model_folder.read_manifest(tmp_path / "frozen")


UNPRIVILEGED = """
import os, sys
sys.path[:0] = sys.argv[2:]
import test_os_errors as tools
from tbt_compile.errors import FormatError
os.chdir("/")
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
root = tools.Path(sys.argv[1])
for path in ("closed/model", "closed", "readonly", "own"):
    try:
        tools.write(root / path)
        print("wrote", root / path, sorted(os.listdir(root / path)))
    except FormatError as error:
        print(error)
for path in ("closed/model", "secret", "secret2"):
    try:
        tools.model_folder.read_manifest(root / path)
    except FormatError as error:
        print(error)
"""


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users may enter; those of pytest may not be entered."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o755)
        yield path


def test_permissions(open_path: Path) -> None:
    """A folder of ours in a parent that may not be written is still replaced, file by file."""
    tmp_path = open_path
    for name in ("closed", "readonly", "own", "secret", "secret2"):
        (tmp_path / name).mkdir()
    (tmp_path / "closed").chmod(0o700 if os.getuid() == 0 else 0)
    write(tmp_path / "readonly").chmod(0o555)
    (write(tmp_path / "secret") / model_folder.MANIFEST).chmod(0)
    (write(tmp_path / "secret2") / "tensors.safetensors").chmod(0)
    write(tmp_path / "own").chmod(0o777)
    tmp_path.chmod(0o555)
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", UNPRIVILEGED, str(tmp_path), str(here), str(here.parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0o755)
    lines = done.stdout.splitlines()
    assert len(lines) == 7, done.stdout + done.stderr
    for line, name in zip(lines, ("closed/model", "closed", "readonly"), strict=False):
        assert line.startswith(f"cannot write {tmp_path / name}: Permission denied; choose a place that you")
    assert lines[3] == f"wrote {tmp_path / 'own'} ['manifest.json', 'tensors.safetensors']"
    for line in lines[4:]:
        assert line.startswith(f"cannot read {tmp_path}")
        assert line.endswith(
            "Permission denied; change its permissions, or copy it to a place that you may read"
        )


def test_a_write_error_is_an_error_of_both_kinds() -> None:
    assert issubclass(WriteError, FormatError)
    assert issubclass(WriteError, OSError)
