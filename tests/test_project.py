"""The project's own rules: what is importable, what stays light, and that examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"tbt_compile": "tbt_compile", "passes": "tbt_compile.passes", "codegen": "tbt_compile.codegen"}
MAX_LINES = 320
TVM_FOLDERS = ("codegen/", "tbt_compile/runtime/")
TVM_IMPORT = re.compile(r"^\s*(import|from) tvm(_ffi)?\b", re.MULTILINE)
# What a device that only runs a compiled folder imports.
WITHOUT_TORCH = (
    "tbt_compile",
    "tbt_compile.cli.app",
    "tbt_compile.encoding",
    "tbt_compile.errors",
    "tbt_compile.codegen.target.spec",
    "tbt_compile.codegen.target.host",
    "tbt_compile.codegen.layouts",
    "tbt_compile.runtime",
)


def module_name(path: Path) -> str:
    """The dotted name under which a source file is imported."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *rest]).removesuffix(".__init__")


SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(module_name(path)))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in SOURCES}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_files_stay_short() -> None:
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_tvm_is_imported_in_two_places_only() -> None:
    offenders = []
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        if TVM_IMPORT.search(path.read_text()) and not where.startswith(TVM_FOLDERS):
            offenders.append(where)
    assert offenders == []


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_running_a_compiled_model_needs_no_torch(name: str) -> None:
    code = f"import sys; sys.modules.update(torch=None, transformers=None); import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists() -> None:
    import tbt_compile

    for name in tbt_compile.__all__:
        assert getattr(tbt_compile, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tbt_compile.nothing
