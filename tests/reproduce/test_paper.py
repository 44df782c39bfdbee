"""The paper's tables: what must hold between figures that are printed in several places."""

from __future__ import annotations

import pytest

from tbt_compile.errors import MethodError, ReproduceError
from tbt_compile.recipe import Recipe
from tbt_compile.reproduce import TABLES, PlannedRow, find_table, paper_table, plan_rows
from tbt_compile.reproduce.find import find_method
from tbt_compile.reproduce.paper import DATA_SETS
from tbt_compile.training.methods import METHODS
from tbt_compile.training.methods.tbt import TBT


def test_every_row_has_as_many_scores_as_the_table_has_columns() -> None:
    for name in TABLES:
        table = find_table(name)
        for row in table.rows:
            assert all(len(scores) == len(table.columns) for scores in row.scores.values())
            assert set(row.scores) <= set(DATA_SETS)


def test_table_3_repeats_the_rows_of_table_1() -> None:
    first = {row.name: row.scores for row in paper_table("table1").rows}
    for row in paper_table("table3").rows:
        if not row.method.startswith("ablation"):
            assert row.scores == first[row.name], row.name


def test_retention_is_the_first_score_over_the_teachers() -> None:
    table = paper_table("table1")
    row = next(row for row in table.rows if row.name == "tbt-2-2-2")
    assert table.retention(row, "xsum") == pytest.approx(36.21 / 43.84)
    blocks = next(row for row in table.rows if row.method == "blockpruning")
    assert table.retention(blocks, "xsum") is None


def test_the_ablation_trains_eight_students_a_seed_and_the_first_seed_first() -> None:
    planned = plan_rows(paper_table("table3"), (1, 2))
    assert [row.seed for row in planned] == [1] * 8 + [2] * 8
    assert planned[0] == PlannedRow("twn", "2-2-2", 1)
    assert planned[0].key == "twn-2-2-2-seed1"
    assert {row.method for row in planned} <= set(METHODS)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_can_be_trained(name: str) -> None:
    table = find_table(name)
    assert len(plan_rows(table, (1,))) == len({row.name for row in table.students})


def test_every_variant_differs_from_tbt_in_its_recipe_or_its_loss() -> None:
    for notation in ("2-2-2", "1-1-1"):
        rows = [row for row in find_table("defaults").students if row.notation == notation]
        methods = [find_method(row.method) for row in rows if row.method != "tbt-staged"]
        assert methods[0] is TBT
        settings = {(repr(method.recipe(notation)), method.weights) for method in methods}
        assert len(settings) == len(methods) == 11


def test_every_change_of_the_recipe_differs_from_the_default() -> None:
    for notation in ("2-2-2", "1-1-1"):
        rows = [row for row in find_table("recipes").students if row.notation == notation]
        methods = [find_method(row.method) for row in rows]
        settings = {
            (type(m), repr(m.recipe(notation)), m.weights, repr(m.settings), m.updates) for m in methods
        }
        assert methods[0].recipe(notation) == Recipe.parse(notation)
        assert len(settings) == len(methods)


def test_rows_are_chosen_by_patterns() -> None:
    table = paper_table("table3")
    assert [row.key for row in plan_rows(table, (7,), ("tbt-*",))] == ["tbt-2-2-2-seed7", "tbt-1-1-1-seed7"]
    with pytest.raises(ReproduceError, match="no row of table3 matches 'tbx-2-2-2': it has twn-2-2-2, "):
        plan_rows(table, (1,), ("tbx-2-2-2",))


def test_what_cannot_be_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReproduceError, match=r"unknown table 'table5': .* Did you mean table"):
        paper_table("table5")
    with pytest.raises(ReproduceError, match="no seeds"):
        plan_rows(paper_table("table3"), ())
    monkeypatch.setitem(METHODS, "twn", METHODS["bwn"])
    with pytest.raises(MethodError, match="method 'twn' does not support '2-2-2': expected one of 1-1-8"):
        plan_rows(paper_table("table3"), (1,))
