"""The page: one file with everything in it, which no text of a model can break out of."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from models import Classifier

from tbt_compile.report.collect import collect
from tbt_compile.report.page import page
from tbt_compile.report.sections import Report, Samples

EVIL = '</script><img src=x onerror="window.broken=1"><!--<script>$title'
SECTIONS = ["overview", "graph", "layers", "codes", "benchmarks", "samples"]


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        self.texts.setdefault(tag, [])
        if tag in ("script", "style"):
            self.texts[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.texts[self.inside][-1] += data
        elif self.inside:
            self.texts[self.inside].append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


@pytest.fixture(scope="module")
def report() -> Report:
    return collect(Classifier(), recipe="2-2-2", example_inputs=(torch.randn(2, 5, 16),))


def test_the_page_has_all_sections_and_the_report(report: Report) -> None:
    found = Page(page(report))
    assert [attributes["id"] for tag, attributes in found.elements if tag == "section"] == SECTIONS
    assert dict(found.elements[0][1]) == {"lang": "en"} and found.elements[0][0] == "html"
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links} == set(SECTIONS)
    data, _ = found.texts["script"]
    assert json.loads(data) == json.loads(json.dumps(report.to_dict()))


def test_the_page_loads_nothing(report: Report) -> None:
    text = page(report)
    found = Page(text)
    for _, attributes in found.elements:
        assert not {"src", "srcset", "style"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    for kind, content in (("script", found.texts["script"][1]), ("style", found.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert "http" not in content.replace("http://www.w3.org/2000/svg", "")


def test_no_text_ends_its_element(report: Report) -> None:
    samples = Samples((EVIL, "b"), ((EVIL, (EVIL, EVIL)),))
    found = Page(page(replace(report, title=EVIL, facts=((EVIL, EVIL),), samples=samples)))
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert "img" not in [tag for tag, _ in found.elements]
    assert json.loads(found.texts["script"][0])["samples"]["names"] == [EVIL, "b"]
    assert found.texts["title"] == [EVIL] and found.texts["h1"] == [EVIL]
