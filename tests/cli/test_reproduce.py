"""`tbt reproduce` on a very small model: its plan, its table, its JSON."""

from __future__ import annotations

from pathlib import Path

from tbt_compile.reproduce import paper_table, plan_rows


def test_a_plan_then_the_table(tbt, data: Path, trained: Path, tmp_path: Path) -> None:
    options = ("reproduce", "table3", "--data", data, "--config", trained / "teacher", "--teacher-steps", "0")
    run = (*options, "--rows", "tbt-2-2-2", "--steps", "2", "--batch-size", "8", "--out", tmp_path / "out")
    run += ("--matmul-precision", "medium")
    plan = tbt(*run, "--dry-run")
    assert plan.code == 0, plan.err
    assert "tbt-2-2-2-seed1" in plan.out
    assert "hours of training on this machine" in plan.out
    assert not (tmp_path / "out" / "rows").exists()

    done = tbt(*run, "--json", tmp_path / "rows.json")
    assert done.code == 0, done.err
    assert done.out.startswith(f"# {paper_table('table3').title}")
    assert "| + Both | 2-2-2 |" in done.out
    assert "table3.md" in done.err
    rows = tbt(*run, "--json", "-").json()
    assert {row["provenance"]["matmul_precision"] for row in rows.values()} == {"medium"}
    assert list(rows) == [
        "teacher",
        *(row.key for row in plan_rows(paper_table("table3"), (1,), ("tbt-2-*",))),
    ]
    assert tbt(*run, "--dry-run", "--json", "-").json()[0]["done"] is True


def test_a_precision_that_is_none_is_named(tbt, data: Path, tmp_path: Path) -> None:
    result = tbt("reproduce", "table3", "--data", data, "--out", tmp_path, "--matmul-precision", "low")
    assert result.code == 2
    assert "error: unknown precision 'low' of matrix products: expected one of highest" in result.err


def test_seeds_are_numbers(tbt, data: Path, tmp_path: Path) -> None:
    result = tbt("reproduce", "table3", "--data", data, "--out", tmp_path, "--seeds", "1,two")
    assert result.code == 2
    assert "error: --seeds '1,two': expected comma-separated whole numbers" in result.err
