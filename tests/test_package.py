"""The public names; and wheel and sdist: what they hold, and that the wheel runs away from the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from models import bart

import tbt_compile
from tbt_compile.data.tokenization import train_word_tokenizer

ROOT = Path(__file__).resolve().parent.parent
# Left behind by tools, and what git ignores.
JUNK = (".*", "__pycache__", "*.egg-info", "build", "dist", "site", "demo-output")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
OF_AN_SDIST = {
    "CHANGELOG.md",
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "setup.cfg",
}
PAGE = (ROOT / "docs" / "installation.md").read_text()
FIRST_STEPS = re.search(r"^tbt doctor\n.*?(?=^```)", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", [name for name in tbt_compile.__all__ if name != "__version__"])
def test_every_public_name_resolves(name):
    assert getattr(tbt_compile, name).__name__ == name
    assert name in dir(tbt_compile)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'compile'"):
        tbt_compile.compile  # noqa: B018


def test_importing_the_package_imports_no_library():
    code = (
        "import sys, tbt_compile; print(sorted({'torch', 'tvm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def elsewhere(**variables: str) -> dict[str, str]:
    """The environment of a process that does not know where the sources are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, **variables}


def built(kind: str, source: Path, output: Path) -> Path:
    """What a build backend makes of a folder, without a warning."""
    command = [sys.executable, "-W", "error", "-c", BUILD, f"build_{kind}", str(output)]
    done = subprocess.run(command, cwd=source, env=elsewhere(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return output / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of the sources."""
    folder = tmp_path_factory.mktemp("sdist")
    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=shutil.ignore_patterns(*JUNK))
    return built("sdist", source, folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the sdist alone."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(sdist, folder)
    return built("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


def sources() -> dict[str, bytes]:
    """Every file of the package by its path, through the links to the other two folders."""
    found = {}
    for folder, name in (
        (ROOT / "tbt_compile", ""),
        (ROOT / "passes", "passes"),
        (ROOT / "codegen", "codegen"),
    ):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[str(Path("tbt_compile", name) / path.relative_to(folder))] = path.read_bytes()
    return found


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert held == sources()


def test_the_sdist_holds_the_package_and_what_describes_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name for member in archive if member.isfile() if (name := member.name.partition("/")[2])}
    assert {name for name in held if ".egg-info/" not in name} == sources().keys() | OF_AN_SDIST


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment that has the wheel, and the packages of this one but for `tbt_compile`."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True, env=elsewhere())
    (packages,) = folder.glob("lib/python*/site-packages")
    # What a .pth file names comes after the environment's own packages, and .pth files there are not read.
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    return python.parent


def test_the_first_steps_work_with_the_wheel_away_from_the_sources(bin_folder: Path, tmp_path: Path) -> None:
    """The commands of the page, with a model in a folder."""
    assert FIRST_STEPS is not None
    tokenizer = train_word_tokenizer(["a steel maker rose three percent . nobody knew why"])
    bart(layers=1).save_pretrained(tmp_path / "my-model")
    tokenizer.save_pretrained(tmp_path / "my-model")
    environment = elsewhere(PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    script = f"set -ex\n{FIRST_STEPS[0]}tbt serve --help\ntbt --help"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"my-model", "compiled", "report.html"}
    where = "import tbt_compile; print(tbt_compile.__file__)"
    done = subprocess.run(
        [bin_folder / "python", "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert Path(done.stdout).is_relative_to(bin_folder.parent)
