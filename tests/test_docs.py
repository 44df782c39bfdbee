"""What README.md and docs/ promise: the code runs, and commands, options, files, links and headings exist."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from models import bart, llama

import tbt_compile.codegen.importer.units  # noqa: F401  (registers the converters)
from tbt_compile.cli.app import app
from tbt_compile.codegen.importer.registry import CONVERTERS
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.training.methods.registry import METHODS

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    ROOT / "examples" / "results" / "README.md",
    *DOCS,
]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
# What a page may name in backticks by a path from the root.
FOLDERS = r"(?:passes|codegen|tbt_compile|tests|docs|examples)"
NAMED = re.compile(rf"`({FOLDERS}/[\w./-]*)[^`]*`")
COMMAND = re.compile(r"\btbt (?:--debug )?([a-z.][^`\n#&]*)")
OPTION = re.compile(r"--[a-z][a-z-]*")
QUESTIONS = {
    "i8mm": ("codegen/target/isa.py", "codegen/kernels/strategy.py"),
    "causal mask": ("passes/lowering/fuse_masked_softmax.py",),
    "ATen operator": ("codegen/importer/registry.py", "docs/extending/add-an-aten-operator.md"),
    "SVE": ("codegen/target/isa.py", "docs/extending/add-an-instruction-set.md"),
    "Eq. 11, 12": ("tbt_compile/quantizers/learned_scale.py",),
    "{0,1,2} x ternary": ("codegen/kernels/dot/bit_product.py",),
    "baseline": ("tbt_compile/training/methods/registry.py", "docs/extending/add-a-training-method.md"),
    "model family": ("tbt_compile/adapters/huggingface.py", "docs/extending/add-a-model-family.md"),
}


def name_of(page: Path) -> str:
    """Path of a page from the root: its name in the tests' ids."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in that language."""
    return [code for kind, code in FENCE.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


@cache
def anchors(page: Path) -> set[str]:
    """What links to headings of a page end in, by GitHub's rules."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.fixture
def _registries() -> Iterator[None]:
    """What pages register is forgotten afterwards."""
    registries: tuple[dict[str, Any], ...] = (CONVERTERS, METHODS)
    contents = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, contents, strict=True):
        registry.clear()
        registry.update(content)


MODELS = {"my-llama": llama, "my-bart": bart}
"""What readers have: models of their own, here small random ones."""


def save_model(name: str, folder: Path) -> None:
    """Save one of `MODELS` with a tokenizer."""
    tokenizer = train_word_tokenizer(["a steel maker rose three percent . nobody knew why summary : up"])
    MODELS[name](vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.usefixtures("_registries")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in MODELS:
        if f'"{name}"' in page.read_text():
            save_model(name, tmp_path / name)
    module = ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)  # where dataclasses look their annotations up
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{name_of(page)}, block {number}", "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_known_language(page: Path) -> None:
    assert {kind for kind, _ in FENCE.findall(page.read_text())} <= {"python", "sh", "text"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, heading in LINK.findall(prose(page)):
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), path
        assert not heading or heading in anchors(linked), f"{path}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_folders_exist(page: Path) -> None:
    names = {name.rstrip(".") for name in NAMED.findall(prose(page))}
    assert [name for name in names if not (ROOT / name).exists() and not list(ROOT.glob(f"{name}*"))] == []


def commands() -> dict[str, set[str]]:
    """Options by command: "lower", "bench generate"."""

    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            else:
                options = {option for parameter in command.params for option in parameter.opts}
                yield " ".join((*path, name)), options | {"--help"}

    return dict(walk(typer.main.get_command(app), ()))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    known = commands()
    code = re.findall(r"`(tbt [^`]*)`", prose(page).replace("\n", " ")) + blocks(page, "sh")
    for line in COMMAND.findall("\n".join(code)):
        words = line.split()
        meant = [name for name in known if name.split()[0] == words[0]]
        if len(words) > 1 and (named := [name for name in meant if name == f"{words[0]} {words[1]}"]):
            meant = named
        assert meant or words[0] == "...", f"tbt {line}"
        options = set().union(*(known[name] for name in meant or known))
        assert set(OPTION.findall(line)) <= options | {"--help"}, f"tbt {line}"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_leads_to_its_file(question: str) -> None:
    table = ARCHITECTURE.read_text().split("## Where is what")[1].split("\n## ")[0]
    (row,) = [line for line in table.splitlines() if line.startswith("| ") and question in line.split("|")[1]]
    linked = {(ARCHITECTURE.parent / path).resolve() for path, _ in LINK.findall(row)}
    assert {ROOT / file for file in QUESTIONS[question]} <= linked


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]
    missing = [page for page in DOCS if f"{page.relative_to(ROOT / 'docs').as_posix()}\n" not in navigation]
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180
