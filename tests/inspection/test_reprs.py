"""What `print` and notebooks show of plans, frozen and compiled models."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled_tools import Case
from models import bart

import tbt_compile


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.shared(bart(), "2-2-2", "printed-bart", tmp_path_factory)


def test_a_frozen_and_a_compiled_model_say_the_same(case: Case, tmp_path: Path) -> None:
    frozen, compiled = tbt_compile.freeze(case.eager), case.compiled
    lines, others = str(frozen).splitlines(), str(compiled).splitlines()
    assert lines[0].startswith("BartForConditionalGeneration frozen at 2-2-2, ")
    assert others[0] == compiled.label
    assert lines[1:] == others[3:]  # the compiled model has recorded its multiplications
    assert others[1].endswith("MACs for input_ids [1, 64], attention_mask [1, 64], decoder_input_ids [1, 64]")
    cells = [line.split() for line in lines[1:]]
    assert cells[0] == ["kind", "weight", "inputs", "layers", "parameters", "before", "in", "memory"]
    assert ["linear", "ternary", "ternary", "32"] in [row[:4] for row in cells]
    assert ["linear", "ternary", "int8", "1"] in [row[:4] for row in cells]
    assert any(row[:3] == ["attention", "ternary,", "ternary012"] and row[3] == "6" for row in cells)
    assert cells[-1][:5] == ["others", "in", "full", "precision", "15"]
    older = case.loaded()
    del older.description["summary"]
    assert str(older) == older.label


def test_notebooks_get_tables(case: Case) -> None:
    plan = tbt_compile.plan(bart(), "2-2-2")
    for shown, words in (
        (plan, "non-negative: output of softmax"),
        (tbt_compile.freeze(case.eager), "ternary012"),
        (case.compiled, "left in float: 0.0%"),
    ):
        html = shown._repr_html_()
        assert html.startswith("<div><p><strong>BartForConditionalGeneration") and words in html
        assert html.count("<table>") == html.count("</table>") >= 1
        assert html.count("<tr>") == html.count("</tr>") > 4
    assert "biases stay fp32" in plan._repr_html_()
