"""The page in Chromium: every section without a message, by keys, in the dark, on a phone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compiled_tools import trained
from models import bart

import tbt_compile
from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.generation import BenchSettings
from tbt_compile.bench.job import Row
from tbt_compile.report.collect import collect
from tbt_compile.report.page import page
from tbt_compile.report.sections import Report

if TYPE_CHECKING:
    from report.browser import Browser

EVIL = '</script><img src=x onerror="window.broken=1">'
SECTIONS = ("overview", "graph", "layers", "codes", "benchmarks", "samples")
# Texts with less contrast to their background than all can read: 4.5 (WCAG 2.2, AA).
FAINT = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  const color = getComputedStyle(node).backgroundColor;
  return /, 0\\)$/.test(color) && node.parentElement ? ground(node.parentElement) : color;
};
const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
const contrast = (node) => {
  const [a, b] = [getComputedStyle(node).color, ground(node)].map(luminance).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
};
const nodes = [...document.body.querySelectorAll("*")];
const texts = nodes.filter((node) => node.checkVisibility() && hasText(node));
const faint = texts.filter((node) => contrast(node) < 4.5);
return [texts.length, faint.map((node) => node.outerHTML.slice(0, 90))];
"""
# Edges whose last point is not at the box that they lead to.
ASTRAY = """
const boxes = new Map([...document.querySelectorAll("#graph-view li")].map((node) => [node.item, node]));
return [...document.querySelectorAll("path.edge")].filter((path) => {
  const end = path.getPointAtLength(path.getTotalLength()).matrixTransform(path.getScreenCTM());
  const box = boxes.get(path.ends[1]).querySelector(":scope > .head").getBoundingClientRect();
  const off = (value, low, high) => value < low - 3 || value > high + 3;
  return off(end.x, box.left, box.right) || off(end.y, box.top, box.bottom);
}).length;
"""
# The names of the boxes that are shown, in order.
SHOWN = """
return [...document.querySelectorAll("#graph-view li")].filter((node) => node.checkVisibility())
  .map((node) => node.querySelector(":scope > .head > span:not(.chip):not(.caret)").textContent);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a small model, with everything that a page can show."""
    folder = tmp_path_factory.mktemp("results")
    row = Row("tbt 2-2-2", 3.0, 0.5, 3.0, 0.5, 2000.0, 1.0, 50.0, 0.2, 9.0)
    rows = [row, replace(row, name="torch fp32", token_ms=2.5), Row("llama.cpp", skipped="is not installed")]
    result = {"settings": asdict(BenchSettings()), "conditions": conditions(), "rows": [*map(asdict, rows)]}
    (folder / "bench.json").write_text(json.dumps(result))
    for name, text in (("a", "one two three"), ("b", f"one 2 three {EVIL}")):
        texts = [{"source": f"source {EVIL}", "text": text}]
        (folder / f"{name}.json").write_text(json.dumps({"texts": texts}))
    model = trained(bart(), "2-2-8")
    compiled = tbt_compile.lower(model, clock=True, num_threads=1)
    texts = {EVIL: folder / "a.json", "b": folder / "b.json"}
    return collect(model, compiled=compiled, benchmarks=[folder / "bench.json"], texts=texts)


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(replace(report, title=f"a model {EVIL}")), encoding="utf-8")
    return path


def shown(browser: Browser) -> list[str]:
    """The names of the boxes that are shown, in order."""
    names = browser.run(SHOWN)
    assert isinstance(names, list)
    return names


def focus(browser: Browser, selector: str) -> None:
    """Focus the first element that a selector finds."""
    browser.run("document.querySelector(arguments[0]).focus()", selector)


def test_every_section_is_drawn_without_a_message(browser: Browser, file: Path) -> None:
    browser.open(file)
    for name in SECTIONS:
        assert len(browser.all(f"#{name} > *")) > 1, name
        browser.run("document.getElementById(arguments[0]).scrollIntoView()", name)
    assert browser.all(".missing") == []
    assert browser.all("#graph-view path.edge")
    assert browser.one("#layers thead tr").text.split() == [
        "layer", "kind", "operands", "parameters", "before", "after", "MACs", "time",
    ]  # fmt: skip
    assert browser.all("#samples mark")[0].text == "2"
    assert browser.messages() == []


def test_text_stays_text(browser: Browser, file: Path) -> None:
    browser.open(file)
    assert browser.run("return window.broken") is None and browser.all("img") == []
    assert browser.one("h1").text == f"a model {EVIL}"
    assert EVIL in browser.one("#samples thead").text and EVIL in browser.one("#samples tbody").text
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.broken = 1'}))"
    )
    assert browser.run("return window.broken") is None  # the page's policy runs its own script only


def test_boxes_are_opened_and_closed_by_keys(browser: Browser, file: Path) -> None:
    browser.open(file)
    names = shown(browser)
    assert names[:2] == ["BartForConditionalGeneration", "input_ids"]
    assert names.count("layers.0") == names.count("layers.1") == 2
    closed = "[...document.querySelectorAll('#graph-view [aria-expanded=false]')]"
    assert browser.run(f"return {closed}.filter((node) => node.querySelector('ul')).length") == 0
    focus(browser, "#graph-view li")
    browser.press(*["ArrowDown"] * names.index("layers.1"))
    node = browser.focused()
    assert node.get_attribute("aria-label") == "layers.1, BartEncoderLayer, 6 signed, 10 8-bit"
    assert (node.get_attribute("aria-expanded"), node.get_attribute("aria-level")) == ("false", "4")
    browser.press("Enter")
    assert node.get_attribute("aria-expanded") == "true"
    assert len(shown(browser)) > len(names)
    browser.press("ArrowRight")
    assert browser.focused().get_attribute("aria-level") == "5"
    browser.press("ArrowUp", "ArrowLeft")
    assert browser.focused() == node and node.get_attribute("aria-expanded") == "false"
    assert shown(browser) == names
    browser.press("End")
    assert browser.run("return document.activeElement.item.name") == names[-1] == "output"
    browser.press("Home")
    assert browser.run("return document.activeElement.item.depth") == 1
    assert len(browser.all("#graph-view [tabindex='0']")) == 1
    outline = "return getComputedStyle(document.activeElement.querySelector('.head')).outlineStyle"
    assert browser.run(outline) == "solid"


def test_the_focused_box_says_why(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.run("[...document.querySelectorAll('.chip.non-negative, .chip.eight-bit')].find((chip) => "
                "chip.textContent.startsWith('probabilities')).closest('li').focus()")  # fmt: skip
    assert "non-negative: output of softmax" in browser.one("#graph-details").text
    assert browser.all("path.edge.near")


def test_before_and_after_and_zoom(browser: Browser, file: Path) -> None:
    browser.open(file)
    assert browser.one("#graph-after").get_attribute("aria-pressed") == "true"
    assert browser.all("#graph-view .chip")
    focus(browser, "#graph-before")
    browser.press("Enter")
    assert browser.one("#graph-before").get_attribute("aria-pressed") == "true"
    assert browser.all("#graph-view .chip") == []
    focus(browser, "#graph-view li")
    width = "return document.querySelector('.canvas').getBoundingClientRect().width"
    narrow = browser.run(width)
    browser.press("+", "+")
    assert browser.one("#graph-zoom").text == "156%"
    assert browser.run(width) == pytest.approx(1.5625 * narrow, rel=0.01)
    scrolled = "return document.querySelector('#graph-view').scrollTop"
    top = browser.run(scrolled)
    browser.run("document.querySelector('#graph-view').dispatchEvent(new KeyboardEvent('keydown', "
                "{key: 'ArrowDown', shiftKey: true, bubbles: true}))")  # fmt: skip
    assert browser.run(scrolled) > top
    browser.press("0")
    assert browser.one("#graph-zoom").text == "100%"


def test_edges_end_at_their_boxes(browser: Browser, file: Path) -> None:
    browser.open(file)
    assert browser.run(ASTRAY) == 0
    focus(browser, "#graph-view li")
    browser.press("-", "-")
    assert browser.run(ASTRAY) == 0
    browser.press("Enter", "Enter")
    assert browser.run(ASTRAY) == 0 and len(browser.all("path.edge")) > 20


def test_layers_are_sorted_by_a_column(browser: Browser, file: Path) -> None:
    browser.open(file)
    name = "return [...document.querySelectorAll('#layers tbody th')].map((cell) => cell.textContent)"
    first = browser.run(name)
    browser.run("document.querySelectorAll('#layers thead button')[4].focus()")
    browser.press("Enter")
    heading = browser.all("#layers thead th")[4]
    assert heading.get_attribute("aria-sort") == "descending"
    assert browser.run(name)[0] == "model.shared" and sorted(browser.run(name)) == sorted(first)
    browser.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"


def test_charts_are_drawn_when_they_are_seen(browser: Browser, file: Path) -> None:
    browser.open(file)
    last = "const cards = document.querySelectorAll('#codes .card'); const card = cards[cards.length - 1];"
    assert browser.run(f"{last} return card.querySelector('svg')") is None
    browser.run(f"{last} card.scrollIntoView()")
    browser.wait(f"{last} return card.querySelector('svg')")
    focus(browser, "#codes-filter")
    browser.press(*"decoder.layers.1.fc2")
    assert [card.text.splitlines()[0] for card in browser.all("#codes .card") if card.is_displayed()] == [
        "model.decoder.layers.1.fc2"
    ]


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, file: Path) -> None:
    browser.resize(360, 740)
    browser.open(file)
    assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    beyond = (
        "return [...document.querySelectorAll('button, input')].filter((node) => node.checkVisibility() && "
    )
    assert (
        browser.run(beyond + "!node.closest('.wide') && node.getBoundingClientRect().right > 360).length")
        == 0
    )
    assert browser.messages() == []


def assert_readable(browser: Browser) -> None:
    count, faint = browser.run(FAINT)
    assert count > 100 and faint == []


def test_colours_follow_the_system_and_the_button(browser: Browser, file: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(file)
    light = browser.run(ground)
    assert_readable(browser)
    browser.one("#theme").click()
    dark = browser.run(ground)
    assert dark != light and browser.one("#theme").text == "Light"
    assert_readable(browser)
    browser.prefer("dark")
    browser.open(file)
    assert browser.run(ground) == dark and browser.one("#theme").text == "Light"
    browser.one("#theme").click()
    assert browser.run(ground) == light


def test_sections_that_are_missing_say_why(browser: Browser, report: Report, tmp_path: Path) -> None:
    path = tmp_path / "compiled.html"
    path.write_text(page(collect(tbt_compile.lower(trained(bart(layers=1), "1-1-1")))), encoding="utf-8")
    browser.open(path)
    reasons = [each.text for each in browser.all(".missing")]
    assert len(reasons) == 5 and all(reason.endswith(".") for reason in reasons)
    assert "--compiled" in reasons[0] and "--clock" in reasons[1]
    assert browser.messages() == []
