"""Tables as they are written, from figures that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbt_compile.data.batches import TextLengths
from tbt_compile.data.text_pairs import TextData, TextPair
from tbt_compile.reproduce import Experiment, find_table
from tbt_compile.reproduce.markdown import table_text
from tbt_compile.reproduce.task import Task

PAIR = TextPair("a b", "a")


def row(method: str, notation: str, seed: int, **scores: float) -> dict[str, Any]:
    digests = {"train": "9 pairs, sha256 1", "test": "3 pairs, sha256 2"}
    training = {"learning_rate": 0.002 if seed == 1 else 0.001}
    return {
        "asked": {
            "method": method,
            "notation": notation,
            "seed": seed,
            "training": training,
            "task": digests,
        },
        "parameters": 1_500_000,
        "outcome": {"steps": 12},
        "floors": {"lead_copy": 20.0, "constant": 10.0},
        "size_mib": 1.25,
        "relative_flops": 0.0625,
        "scores": {"bleu_signature": "tok:13a", **scores},
        "provenance": {
            "cpu": "some CPU",
            "llvm_cpu": "znver3" if seed == 1 else "znver5",
            "device": "cpu",
            "torch_threads": 1,
            "commit": "0123456789abcdef",
        },
    }


def written(
    table: str,
    rows: dict[str, dict[str, Any]],
    metric: str,
    data_set: str | None = None,
    missing: tuple[str, ...] = (),
    config: str = "tiny",
) -> str:
    task = Task("mine", TextData((PAIR,)), TextLengths(8, 8), 1, metric, (PAIR,), data_set)
    experiment = Experiment(table, Path("out"), data="mine", config=config)
    return table_text(experiment, find_table(table), task, rows, missing)


def line(text: str, *cells: str) -> list[str]:
    """The cells of the line of a table that begins with these."""
    found = [part for part in text.splitlines() if part.startswith(f"| {' | '.join(cells)} |")]
    assert len(found) == 1, text
    return found[0].strip("| ").split(" | ")


def test_mean_and_deviation_over_seeds_share_of_the_teacher_and_the_papers_figures() -> None:
    scores = {"rouge2": 40.0, "rougeLsum": 45.0}
    rows = {"teacher": row("teacher", "32-32-32", 1, rouge1=50.0, **scores)}
    for seed, score in ((1, 39.0), (2, 41.0)):
        rows[f"tbt-2-2-2-seed{seed}"] = row("tbt", "2-2-2", seed, rouge1=score, **scores)
    text = written("table1", rows, "rouge")
    ours = ["TBT", "2-2-2", "1.25", "0.0625×", "40.00 ± 1.41", "40.00 ± 0.00", "45.00 ± 0.00", "80.0 ± 2.8%"]
    paper = ["39.6", "0.0625×", "36.21 / 14.38 / 29.07", "82.6%", "41.03 / 18.18 / 38.30", "91.4%"]
    assert line(text, "TBT", "2-2-2") == ours + paper
    assert line(text, "TBT", "1-1-1")[2:8] == ["–"] * 6
    assert line(text, "BART", "32-32-32")[4:8] == ["50.00", "40.00", "45.00", "100.0%"]
    for part in (
        "1.50 M parameters",
        "Teacher: 12 steps, peak learning rate 0.002. ",
        "Students: 12 steps, peak learning rate 0.001, 0.002; seeds 1, 2. ",
        "20.00 by copying",
        "Machine: some CPU (znver3), some CPU (znver5), device cpu",
        "0123456789ab.",
    ):
        assert part in text


def test_on_a_data_set_of_the_paper_only_its_figures_are_beside() -> None:
    rows = {"teacher": row("teacher", "32-32-32", 1, bleu=30.0), "tbt": row("tbt", "2-2-8", 1, bleu=24.0)}
    text = written("table2", rows, "bleu", "wmt16-ro-en")
    assert line(text, "TBT", "2-2-8") == [
        "TBT",
        "2-2-8",
        "1.25",
        "0.0625×",
        "24.00",
        "80.0%",
        "0.31",
        "24.63",
        "91.8%",
    ]
    assert "sacrebleu, tok:13a" in text


def test_a_model_of_a_folder_is_named_without_the_path_to_it(tmp_path: Path) -> None:
    rows = {"teacher": row("teacher", "32-32-32", 1, mean_length=10.0)}
    (tmp_path / "my-bart").mkdir()
    for config, name in ((str(tmp_path / "my-bart"), "my-bart"), ("facebook/bart-base",) * 2):
        assert f"Model: {name}, 1.50 M parameters." in written("table4", rows, "rouge", config=config)


def test_a_teacher_that_was_not_trained_here() -> None:
    teacher = row("teacher", "32-32-32", 1, bleu=30.0)
    teacher |= {"outcome": None, "asked": {**teacher["asked"], "training": None}}
    assert "Teacher: as it was given. Students: none yet." in written("table2", {"teacher": teacher}, "bleu")


def test_what_is_still_to_come_and_where_seeds_are_fewer() -> None:
    scores = {"rouge1": 50.0, "rouge2": 40.0, "rougeLsum": 45.0}
    rows = {"teacher": row("teacher", "32-32-32", 1, **scores)}
    text = written("table3", rows, "rouge", missing=("twn-2-2-2-seed1",))
    assert "Students: none steps" not in text
    assert "Still to be trained: twn-2-2-2-seed1." in text
    assert "±" not in text
    for seed in (1, 2):
        rows[f"twn-2-2-2-seed{seed}"] = row("twn", "2-2-2", seed, **scores)
    rows["tbt-2-2-2-seed1"] = row("tbt", "2-2-2", 1, **scores)
    text = written("table3", rows, "rouge")
    assert text.endswith("± is the standard deviation over seeds.\nFewer seeds: tbt-2-2-2 (1).\n")
    assert "Still to be trained" not in text


def test_the_table_of_defaults_has_no_columns_of_the_paper() -> None:
    scores = {"rouge1": 50.0, "rouge2": 40.0, "rougeLsum": 45.0}
    rows = {"teacher": row("teacher", "32-32-32", 1, **scores), "a": row("tbt-gelu", "1-1-1", 1, **scores)}
    text = written("defaults", rows, "rouge")
    cells = ["GELU without negative values", "1-1-1", "50.00", "40.00", "45.00", "100.0%"]
    assert line(text, *cells[:2]) == cells
    assert "Paper" not in text


def test_lengths() -> None:
    rows = {"teacher": row("teacher", "32-32-32", 1, mean_length=10.0)}
    rows["bwn"] = row("bwn", "1-1-1", 1, mean_length=16.0)
    text = written("table4", rows, "rouge")
    assert line(text, "Baseline", "1-1-1") == [
        "Baseline",
        "1-1-1",
        "16.0",
        "160.0%",
        "62.00",
        "201.8%",
        "128.00",
        "128.1%",
    ]
