"""The commands that take a model: train, evaluate, lower and run, on one small student."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import bart
from once import only

import tbt_compile
from tbt_compile.cli.models import longest_source, open_for_lowering, open_model, stage_of, tokenizer_of
from tbt_compile.codegen.target.parse import parse_target

OTHER_CPU = "haswell" if os.uname().machine == "aarch64" else "cortex-a72"


def test_train_writes_a_student_and_goes_on_where_it_was(tbt, data: Path, tmp_path: Path) -> None:
    arguments = [
        "train",
        "--data",
        data,
        "--output",
        tmp_path / "out",
        "--recipe",
        "1-1-1",
        "--batch-size",
        8,
    ]
    arguments += ["--vocab-size", 300, "--teacher-steps", 1, "--steps", 1, "--test-sentences", 2]
    first = tbt(*arguments)
    assert first.code == 0, first.err
    assert "student 1-1-1" in first.out
    assert f"tbt lower {tmp_path}/out/student-1-1-1" in first.out
    weights = tmp_path / "out" / "student-1-1-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = tbt(*arguments, "--json", "-")
    assert again.code == 0, again.err
    assert again.json()["student"]["sentences"] == 2
    assert weights.stat().st_mtime_ns == before
    other = tbt(*arguments[:-4], "--steps", 2)
    assert other.code == 2
    assert "steps" in other.err


def test_scales_without_training_are_the_same_every_time(tmp_path: Path) -> None:
    """`tbt verify --recipe` makes the model again that `tbt lower --recipe` compiled."""
    bart(layers=1, dropout=0.5).save_pretrained(tmp_path)
    first, second = (open_for_lowering(tmp_path, "2-2-2", {}).state_dict() for _ in range(2))
    scales = [name for name in first if name.endswith(".scale")]
    assert scales and all(bool((first[name] == second[name]).all()) for name in scales)


def test_train_starts_from_an_earlier_student(tbt, data: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", data, "--teacher", trained / "teacher", "--recipe", "1-1-1", "--output"]
    arguments += [tmp_path, "--steps", 1, "--batch-size", 8, "--test-sentences", 0, "--start"]
    faulty = tbt(*arguments, trained / "student-8-8-8")
    assert faulty.code == 2
    assert "start folder" in faulty.err and "holds no model" in faulty.err
    found = tbt(*arguments, trained / "student-2-2-2")
    assert found.code == 0, found.err
    record = json.loads((tmp_path / "student-1-1-1" / "training.json").read_text())
    assert record["asked"]["start"]


def test_every_stage_of_a_model_is_recognised(trained: Path, compiled: Path, tmp_path: Path) -> None:
    student = trained / "student-2-2-2"
    frozen = tbt_compile.freeze(open_model(student)).save(tmp_path / "frozen")
    stages = {trained / "teacher": "float", student: "prepared", frozen: "frozen", compiled: "compiled"}
    for folder, stage in stages.items():
        assert stage_of(folder) == stage
        assert longest_source(open_model(folder)) == 64
    assert tokenizer_of(frozen) is None
    assert tokenizer_of(compiled) is not None


@pytest.mark.parametrize("stage", ["teacher", "student-2-2-2", "compiled"])
def test_evaluate_scores_any_stage(
    tbt, trained: Path, compiled: Path, data: Path, tmp_path: Path, stage: str
) -> None:
    folder = compiled if stage == "compiled" else trained / stage
    texts = tmp_path / "texts.json"
    arguments = ["evaluate", folder, "--data", data, "--limit", 3, "--max-new-tokens", 4, "--texts", texts]
    result = tbt(*arguments)
    assert result.code == 0, result.err
    assert "ROUGE-L" in result.out
    scores = tbt(*arguments, "--num-beams", 2, "--json", "-").json()
    assert (scores["sentences"], scores["num_beams"], scores["split"]) == (3, 2, "test")
    assert 0 <= scores["rouge1"] <= 100
    written = json.loads(texts.read_text())
    assert [set(row) for row in written] == [{"source", "target", "generated"}] * 3


def test_eager_and_compiled_write_the_same(
    tbt, trained: Path, compiled: Path, data: Path, tmp_path: Path
) -> None:
    written = []
    for folder in (trained / "student-2-2-2", compiled):
        texts = tmp_path / "texts.json"
        result = tbt(
            "evaluate", folder, "--data", data / "train.jsonl", "--max-new-tokens", 8, "--texts", texts
        )
        assert result.code == 0, result.err
        written.append(json.loads(texts.read_text()))
    assert written[0] == written[1]


def test_evaluate_names_what_is_wrong_with_the_data(tbt, compiled: Path, data: Path, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.jsonl"
    faulty.write_text('{"source": "one"}\n')
    for arguments, words in (
        (["--data", faulty], ["line 1", "'target'"]),
        (["--data", data, "--split", "tset"], ["unknown split 'tset'", "test"]),
        (["--data", data, "--split", "validation"], ["no validation split"]),
        (["--data", tmp_path / "nothing"], ["does not exist"]),
    ):
        result = tbt("evaluate", compiled, *arguments)
        assert result.code == 2
        assert all(word in result.err for word in words), result.err


def test_lower_for_another_machine(
    tbt, trained: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, output = tbt_compile.load(several / "model"), tmp_path / "other"

    def lower(model, target, shortlist, dynamic_shapes, clock):
        (spec,) = target
        return only(both, spec.mcpu)

    monkeypatch.setattr(tbt_compile, "lower", lower)
    result = tbt(
        "lower", trained / "student-2-2-2", "-o", output, "--target", f"llvm -mcpu={OTHER_CPU}", "--json", "-"
    )
    assert result.code == 0, result.err
    assert [target["mcpu"] for target in result.json()["targets"]] == [OTHER_CPU]
    assert result.json()["size_mib"] > 0.1
    assert (output / "tokenizer.json").is_file()
    run = tbt("run", output, "one two")
    assert run.code == 2
    assert f"compiled for {OTHER_CPU}" in run.err
    assert "'host'" in run.err


def test_lower_with_the_tokens_of_texts(tbt, trained: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "short"
    options = ["lower", trained / "student-2-2-2", "-o", output, "--shortlist", texts]
    assert f"{texts} cannot be read" in tbt(*options).err
    texts.write_text(" \n", encoding="utf-8")
    assert f"{texts} is empty" in tbt(*options).err
    assert not output.exists()
    texts.write_text("one two\nthree\n", encoding="utf-8")
    result = tbt(*options)
    assert result.code == 0, result.err
    known = {"one", "two", "three"}
    assert re.search(r"; writes \d+ tokens", result.out)
    assert set(tbt("run", output, "four five six").out.split()) <= known


def test_lower_for_several_machines(tbt, trained: Path, several: Path, tmp_path: Path) -> None:
    said = (several / "out.txt").read_text()
    assert re.search(rf"MiB for {OTHER_CPU} \(\w+, \w+\), .* of .* MiB of tensors serve every CPU", said)
    run = tbt("run", several / "model", "one two", "--json", "-")
    assert f"chosen from {OTHER_CPU}" in run.err
    assert run.json()["cpu"] == parse_target("host").mcpu
    targets = ["--target", OTHER_CPU, "--target", "host"] * 2
    again = tbt("lower", trained / "student-2-2-2", "-o", tmp_path / "fat", *targets)
    assert "the CPU" in again.err


def test_lower_refuses_what_it_cannot_compile(tbt, trained: Path, compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    student = trained / "student-2-2-2"
    for arguments, words in (
        ([student, "--target", "cortex-a27"], ["unknown CPU 'cortex-a27'", "cortex-a72"]),
        ([student, "--recipe", "1-1-1"], ["has a recipe already"]),
        ([trained / "teacher"], ["full-precision", "tbt train"]),
        ([trained / "teacher", "--recipe", "2-2-3"], ["3"]),
        ([compiled], ["compiled already"]),
        ([tmp_path / "nothing"], ["no folder"]),
        ([trained], ["holds no model"]),
    ):
        result = tbt("lower", *arguments, "--output", out)
        assert result.code == 2
        assert all(word in result.err for word in words), result.err
        assert result.err.count("\n") == 1
        assert not out.exists()


def test_run_takes_texts_or_lines(tbt, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one two three", "four five"]
    model, tokenizer = open_model(compiled), tokenizer_of(compiled)
    expected = []
    for text in texts:
        tokens = model.generate(np.array([tokenizer(text)["input_ids"]]), num_beams=2, max_new_tokens=6)
        expected.append(tokenizer.decode(tokens[0].tolist(), skip_special_tokens=True))
    given = tbt("run", compiled, *texts, "--num-beams", 2, "--max-new-tokens", 6, "--json", "-")
    assert [row["text"] for row in given.json()["texts"]] == expected
    assert [row["source"] for row in given.json()["texts"]] == texts
    assert given.json()["seconds"] > 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("one two three\n\nfour five\n"))
    piped = tbt("run", compiled, "--num-beams", 2, "--max-new-tokens", 6, "--workers", 2, "--batch-size", 1)
    assert piped.out == f"{expected[0]}\n\n{expected[1]}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\udcff\n"))
    assert "text 2 is not UTF-8" in tbt("run", compiled).err


def test_run_samples(tbt, wordy: Path) -> None:
    arguments = ["run", wordy, "one two three", "--max-new-tokens", 16]
    texts = [
        tbt(*arguments, "--sample", "--temperature", 5.0, "--top-k", 0, "--seed", seed, *more).out
        for seed, more in ((1, ()), (1, ["--stream"]), (2, ()))
    ]
    assert texts[0] == texts[1] != texts[2]
    assert tbt(*arguments, "--sample", "--top-k", 1).out == tbt(*arguments).out
    result = tbt(*arguments, "--top-p", 0.5)
    assert (result.code, "--top-p is of samples only: add --sample" in result.err) == (2, True)


def test_run_streams_what_it_would_write(tbt, wordy: Path, tmp_path: Path) -> None:
    arguments = ["run", wordy, "one two three", "four five", "--max-new-tokens", 16]
    whole, file = tbt(*arguments), tmp_path / "texts.json"
    streamed = tbt(*arguments, "--stream", "--json", file)
    assert streamed.out == whole.out
    written = [row["text"] for row in json.loads(file.read_text())["texts"]]
    assert streamed.out.splitlines() == written
    assert all(written)
    assert "--num-beams" in tbt(*arguments, "--stream", "--num-beams", 2).err
    assert "name a file" in tbt(*arguments, "--stream", "--json", "-").err


@pytest.mark.parametrize("options", [["--stream"], ["--workers", "2"]])
def test_an_interrupt_ends_the_command_at_once(wordy: Path, options: list[str]) -> None:
    texts = ["one two three"] * 20_000
    with subprocess.Popen(
        [sys.executable, "-c", "from tbt_compile.cli import main; main()", "run", str(wordy), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("\n".join(texts))
        process.stdin.close()
        # The first word, or the first line about progress: it is generating.
        assert (process.stdout if options == ["--stream"] else process.stderr).read(1)
        sent = time.perf_counter()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        assert time.perf_counter() - sent < 10
        assert code == 130
        assert process.stderr.read().splitlines()[-1] == "interrupted"


def test_run_names_what_is_missing(tbt, trained: Path, compiled: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "there is no text" in tbt("run", compiled).err
    assert "there is no folder" in tbt("run", tmp_path / "nothing", "one").err
    hint = f"{trained / 'student-2-2-2'} is trained but not compiled; run `tbt lower"
    assert hint in tbt("run", trained / "student-2-2-2", "one").err
    assert "is in full precision: distil it" in tbt("run", trained / "teacher", "one").err
    packed = tbt_compile.freeze(open_model(trained / "student-2-2-2")).save(tmp_path / "packed")
    assert "tbt lower" in tbt("run", packed, "one").err
    model = open_model(compiled)
    model._files = {}  # the tokenizer would come along
    bare = model.save(tmp_path / "bare")
    assert "tokenizer.json" in tbt("run", bare, "one").err
    shutil.copytree(compiled, tmp_path / "cut")
    library = tmp_path / "cut" / "model.so"
    library.write_bytes(library.read_bytes()[:-10])
    assert "truncated" in tbt("run", tmp_path / "cut", "one").err


def test_run_needs_neither_torch_nor_transformers(compiled: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None); "
        "from tbt_compile.cli import main; sys.argv = ['tbt', 'run', sys.argv[1], 'one two']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(compiled)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_run_reads_a_text_to_its_end(
    tbt, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the last use of the tokenizer before it was saved had cut off."""
    tokenizer = tokenizer_of(compiled)
    tokenizer("one two three", truncation=True, max_length=2)
    folder = tbt_compile.load(compiled).save(tmp_path / "folder", tokenizer=tokenizer)
    generate, read = tbt_compile.CompiledModel.generate_many, []

    def generate_many(self, sources, **options):
        read.extend(sources)
        return generate(self, sources, **options)

    monkeypatch.setattr(tbt_compile.CompiledModel, "generate_many", generate_many)
    text = "one two three four five six"
    assert tbt("run", folder, text, "--max-new-tokens", 2).code == 0
    assert read == [tokenizer(text)["input_ids"]]
    assert len(read[0]) > 2
