"""Hooks of the site that `make docs` builds.

Pages link to sources by relative paths, `../passes/base.py`, which GitHub follows. A site holds nothing
outside docs/, so every linked source becomes a page of the site, and the link leads there. Pages of the
reference that the navigation names and nobody wrote are made too.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
SOURCE = "source/"
REFERENCE = "reference/"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every source that is linked, from those pages on too, and the pages of the reference."""
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while pages:
        uri, text = pages.pop()
        for link in LINK.finditer(text):
            target = linked_source(uri, link[2])
            if target is None or files.get_file_from_path(page_of(target)):
                continue
            if target.suffix in {".png", ".svg"}:
                files.append(File.generated(config, page_of(target), abs_src_path=str(ROOT / target)))
                continue
            content, uri_of = source_page(target), page_of(target)
            outside = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, uri_of, content=content, inclusion=outside))
            pages.append((uri_of, content))
    for uri in named_in(config["nav"]):
        if uri.startswith(REFERENCE) and not files.get_file_from_path(uri):
            files.append(File.generated(config, uri, content=reference_page(uri)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to sources lead to their pages."""
    uri = page.file.src_uri

    def changed(link: re.Match[str]) -> str:
        target = linked_source(uri, link[2])
        if target is None:
            return link[0]
        return f"{link[1]}{posixpath.relpath(page_of(target), posixpath.dirname(uri) or '.')}{link[3]}"

    return LINK.sub(changed, markdown)


def linked_source(uri: str, link: str) -> Path | None:
    """The source in the repository that a link of the page `uri` leads to; None for pages of docs/."""
    if "://" in link:
        return None
    own = uri.removeprefix(SOURCE).removesuffix(".md") if uri.startswith(SOURCE) else f"docs/{uri}"
    target = Path(os.path.normpath(posixpath.join(posixpath.dirname(own), link)))
    if not (ROOT / target).exists():
        return None  # MkDocs says so
    if target.parts[0] == "docs":
        return target if uri.startswith(SOURCE) else None
    return target


def page_of(source: Path) -> str:
    """Where the site has a source."""
    if source.parts[0] == "docs":
        return source.relative_to("docs").as_posix()
    return f"{SOURCE}{source}" if source.suffix in {".png", ".svg"} else f"{SOURCE}{source}.md"


def source_page(source: Path) -> str:
    """A Markdown file as it is, a folder as a list of its files, anything else as code."""
    path, head = ROOT / source, "---\nsearch:\n  exclude: true\n---\n"
    if path.is_dir():
        entries = [f"- {entry}" for entry in folder_entries(path)]
        return f"{head}# `{source}/`\n\n" + "\n".join(entries) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return head + text
    language = {".py": "python", ".toml": "toml", ".json": "json"}.get(path.suffix, "text")
    return f"{head}# `{source}`\n\n~~~~~ {{.{language} linenums=1}}\n{text}~~~~~\n"


def folder_entries(path: Path) -> Iterator[str]:
    """The files and folders of a folder, each with the first line of its docstring."""
    for entry in sorted(path.iterdir()):
        module = entry / "__init__.py" if entry.is_dir() else entry
        if module.suffix == ".py" and module.exists() and entry.name != "__init__.py":
            docstring = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n")[0]
            name = f"`{entry.name}/`" if entry.is_dir() else f"[`{entry.name}`]({path.name}/{entry.name})"
            yield f"{name}: {docstring}"


def reference_page(uri: str) -> str:
    """The public modules of the package, or the one module, that a page of the reference is named after."""
    name = uri.removeprefix(REFERENCE).removesuffix(".md")
    path = ROOT.joinpath(*name.split("."))
    modules = [name]
    if path.is_dir():
        inside = sorted(child.stem for child in path.glob("*.py") if not child.stem.startswith("_"))
        modules += [f"{name}.{stem}" for stem in inside]
    blocks = []
    for module in modules:
        # A package shows what it says about itself; what it exports is shown where it is defined.
        package = "    options:\n      members: false\n      show_root_heading: false\n"
        single = "    options:\n      show_root_heading: false\n"
        options = single if len(modules) == 1 else package if module == name else ""
        blocks.append(f"::: {module}\n{options}")
    return f"---\ntitle: {name}\n---\n" + "\n".join(blocks)


def named_in(nav: Any) -> Iterator[str]:
    """Every page that the navigation names."""
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from named_in(entry)
