"""What README.md and the examples promise; `test_docs.py` has what holds for every page."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tbt_compile.cli.app import app
from tbt_compile.data.text_pairs import TextPair, load_folder, write_pairs
from tbt_compile.data.tokenization import train_bpe_tokenizer
from tbt_compile.evaluation.generation import DecodeSettings, generate_texts
from tbt_compile.recipe import Recipe
from tbt_compile.reproduce import Experiment, reproduce
from tbt_compile.training import new_model
from tbt_compile.training.stages import load_teacher

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
METHODS = (ROOT / "docs" / "methods.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PRETRAIN = ROOT / "examples" / "pretrain.py"
TEACHER_TEXTS = ROOT / "examples" / "teacher_texts.py"
RESULTS = ROOT / "examples" / "results"
ZOO = ROOT / "examples" / "zoo.py"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {PRETRAIN, TEACHER_TEXTS, ZOO})
# One library takes as long as three to find out whether the example works.
SMALLER = {"cross_compile": {"targets": ("cortex-a72",)}, "trainer": {"steps": 3}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))["main"](**SMALLER.get(path.stem, {}))
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_pretrained_and_can_be_the_one_of_an_experiment(tmp_path: Path) -> None:
    pairs = [TextPair(f"Norvik Steel rose {i} percent today.", f"norvik steel up {i}") for i in range(20)]
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        write_pairs(tmp_path / "data" / f"{split}.jsonl", pairs)
    pretrained = str(tmp_path / "pretrained")
    options = ["--lower-case", "--vocab-size", "300", "--steps", "2", "--out", pretrained]
    runpy.run_path(str(PRETRAIN))["main"]([str(tmp_path / "data"), *options])
    report = reproduce(
        Experiment(
            "table3",
            tmp_path / "out",
            data=str(tmp_path / "data"),
            config=pretrained,
            teacher_steps=1,
            steps=1,
            rows=("tbt-2-2-2",),
            test_sentences=2,
        )
    )
    assert "tbt-2-2-2-seed1" in report.rows


def test_a_teacher_writes_what_students_are_trained_on(tmp_path: Path) -> None:
    data, teacher, out = (str(tmp_path / name) for name in ("data", "teacher", "out"))
    pairs = [TextPair(f"Norvik Steel rose {i} percent today.", f"norvik steel up {i}") for i in range(20)]
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        write_pairs(tmp_path / "data" / f"{split}.jsonl", pairs)
    tokenizer = train_bpe_tokenizer([pair.source for pair in pairs], 300)
    tokenizer.save_pretrained(teacher)
    new_model("tiny", tokenizer, 64).save_pretrained(teacher)
    main = runpy.run_path(str(TEACHER_TEXTS))["main"]
    main([data, "--teacher", teacher, "--out", out, "--num-beams", "2", "--max-length", "8"])
    written = load_folder(out)
    assert written.test == tuple(pairs)
    assert [pair.source for pair in written.train] == [pair.source for pair in pairs]
    model, sources = load_teacher(teacher), [pair.source for pair in pairs]
    expected = generate_texts(model, tokenizer, sources, DecodeSettings(8, 8, num_beams=2))
    assert [pair.target for pair in written.train] == [
        text or pair.target for text, pair in zip(expected.texts, pairs, strict=True)
    ]
    with pytest.raises(SystemExit):
        main([data, "--teacher", teacher, "--out", data])
    assert load_folder(data).train == tuple(pairs)


def test_there_is_a_quick_start_and_it_is_short() -> None:
    quick_start = BLOCKS[0]
    assert "generate" in quick_start
    assert len([line for line in quick_start.splitlines() if line.strip()]) <= 24


def test_every_command_is_described() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    groups = [group.name for group in app.registered_groups]
    for name in [*names, *groups]:
        assert f"| `tbt {name}" in README


def test_every_recipe_in_the_table_exists() -> None:
    table = METHODS.split("## Recipes")[1].split("## Methods")[0]
    recipes = re.findall(r"`((?:tbt-released-|twn-|bwn-)?\d+-\d+-\d+)`", table)
    assert len(recipes) >= 7
    for recipe in recipes:
        Recipe.parse(recipe)


def test_every_folder_of_results_is_described() -> None:
    listing = (RESULTS / "README.md").read_text()
    folders = [path.name for path in RESULTS.iterdir() if path.is_dir()]
    assert [name for name in folders if f"`{name}`" not in listing] == []


def test_every_example_is_listed() -> None:
    listing = (ROOT / "examples" / "README.md").read_text()
    assert all(f"`{path.name}`" in listing for path in [*EXAMPLES, PRETRAIN, ZOO])
