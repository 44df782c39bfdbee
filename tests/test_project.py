"""The project's own rules: what may import what, what stays light, that examples in docstrings are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"tbt_compile": "tbt_compile", "passes": "tbt_compile.passes", "codegen": "tbt_compile.codegen"}
MAX_LINES = 320
MIN_LINES, MAX_SHORT_FILES = 35, 20
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

# What the extra `convert` has to suffice for, and the packages of the extra `train`.
WITHOUT_TRAINING = (
    "tbt_compile.preparation",
    "tbt_compile.freezing",
    "tbt_compile.lowering",
    "tbt_compile.checkpoints.loading",
    "tbt_compile.inspection.summarize",
    "tbt_compile.inspection.verification",
    "tbt_compile.report.collect",
)
TRAINING = ("accelerate", "datasets", "psutil", "rouge_score", "sacrebleu")

# What stands above the model and its compiler: nothing below may know of it.
APPLICATIONS = ("integrations", "training", "evaluation", "reproduce", "demo", "bench", "report", "cli")
# By package, what it must not import, at the top or inside a function.
FORBIDDEN = {
    "encoding": ("quantizers", "modules", "passes", "codegen", "runtime", "adapters", "storage"),
    "recipe": ("quantizers", "modules", "passes", "codegen", "runtime", "adapters", "storage"),
    "quantizers": (*APPLICATIONS, "modules", "passes", "codegen", "runtime", "adapters", "storage"),
    "modules": (*APPLICATIONS, "codegen.kernels", "codegen.importer", "runtime", "adapters", "storage"),
    "passes": (*APPLICATIONS, "codegen", "runtime", "adapters", "storage"),
    "codegen": (*APPLICATIONS, "runtime", "adapters", "modules", "quantizers"),
    "runtime": (
        *APPLICATIONS,
        "adapters",
        "modules",
        "passes",
        "quantizers",
        "ops",
        "codegen.importer",
        "codegen.kernels",
        "codegen.library.build",
    ),
    "storage": (*APPLICATIONS, "runtime", "codegen"),
    "adapters": APPLICATIONS,
    "data": (*APPLICATIONS, "modules", "passes", "codegen", "runtime", "adapters"),
    "inspection": APPLICATIONS,
    "training": ("demo", "reproduce", "bench", "report", "cli"),
    "evaluation": ("training", "demo", "reproduce", "bench", "report", "cli"),
    "report": ("training", "demo", "cli"),
}


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


def test_few_files_are_very_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES if path.name != "__init__.py"}
    assert sum(lines < MIN_LINES for lines in lengths.values()) < MAX_SHORT_FILES


def test_tvm_is_imported_in_two_places_only() -> None:
    offenders = []
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        if TVM_IMPORT.search(path.read_text()) and not where.startswith(TVM_FOLDERS):
            offenders.append(where)
    assert offenders == []


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too, but not for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            waiting += ast.iter_child_nodes(node)


def imported_modules() -> dict[str, set[str]]:
    """For every module of the project the others that its imports run, packages on the way included."""
    modules = {module_name(path): path for path in SOURCES}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for imported in imported_names(path):
            parts = imported.split(".")
            run = {".".join(parts[:count]) for count in range(1, len(parts) + 1)} & modules.keys()
            # A module's own packages have been imported before it. The root imports others on use only.
            inside = {package for package in run if f"{name}.".startswith(f"{package}.")}
            graph[name] |= run - inside - {"tbt_compile"}
    return graph


def test_there_is_no_import_cycle() -> None:
    try:
        TopologicalSorter(imported_modules()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_each_package_imports_only_from_below() -> None:
    offenders = [
        (name, imported)
        for name, others in imported_modules().items()
        for package, forbidden in FORBIDDEN.items()
        for imported in others
        if f"{name}.".startswith(f"tbt_compile.{package}.")
        and any(f"{imported}.".startswith(f"tbt_compile.{other}.") for other in forbidden)
    ]
    assert offenders == []


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Public functions of a module and public methods of its public classes, without overloads."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if not any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)


@pytest.mark.parametrize("path", [path for path in SOURCES if "cli" not in path.parts], ids=module_name)
def test_functions_of_many_parameters_document_them(path: Path) -> None:
    undocumented = []
    for function in public_functions(ast.parse(path.read_text()).body):
        arguments = function.args
        named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        documented = "Args:" in (ast.get_docstring(function) or "")
        if len([name for name in named if name not in ("self", "cls")]) >= 3 and not documented:
            undocumented.append(function.name)
    assert undocumented == []


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_running_a_compiled_model_needs_no_torch(name: str) -> None:
    code = f"import sys; sys.modules.update(torch=None, transformers=None); import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_preparing_compiling_and_looking_need_no_package_of_training() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({TRAINING})); import {', '.join(WITHOUT_TRAINING)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists() -> None:
    import tbt_compile

    for name in tbt_compile.__all__:
        assert getattr(tbt_compile, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tbt_compile.nothing


def callable_types(path: Path) -> Iterator[str]:
    """Names of the callable types that a module defines: `Progress = Callable[...]`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Callable["):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def test_a_callable_type_is_defined_once() -> None:
    where: dict[str, list[str]] = {}
    for path in SOURCES:
        for name in callable_types(path):
            where.setdefault(name, []).append(module_name(path))
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}
