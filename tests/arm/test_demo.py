"""The demo's model and fifty of its test sentences: one folder, made here, gives the same tokens on each CPU.

What `make demo` has left in `demo-output` is used. Without that, a model of the demo's size is trained on the
demo's text, but only until what it writes has to do with what it reads.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arm.environment import ROOT, Environment
from arm.kernels import EMULATED
from arm.machine import Machine
from arm.machine_code import DOT_PRODUCTS, UNKNOWN, instructions
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.codegen.target.host import missing_features
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.demo import DemoSettings
from tbt_compile.demo.task import LENGTHS, DemoTask, build_task
from tbt_compile.training import TrainingRun, TrainSettings, distill, new_model, train_teacher

SENTENCES = 50
RECIPE = "2-2-2"
DEMO = ROOT / "demo-output"
PACKED = DEMO / f"packed-{RECIPE}"
SETTINGS = DemoSettings()
TEACHER = TrainSettings(steps=100, batch_size=32)
STUDENT = TrainSettings(steps=80, batch_size=32, learning_rate=3e-3)
FEWEST_TEXTS = 20
OLD, NEW = EMULATED


@pytest.fixture(scope="module")
def task(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> DemoTask:
    """The demo's own data; less of it where a model is trained now."""
    if PACKED.is_dir():
        return build_task(DEMO, SETTINGS.train_items, SETTINGS.test_items, SETTINGS.seed)
    return build_task(tmp_path_factory.mktemp("demo"), train=4000, test=SENTENCES, seed=SETTINGS.seed)


@pytest.fixture(scope="module")
def folder(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if PACKED.is_dir():
        frozen = tbt_compile.load(PACKED)
    else:
        frozen = tbt_compile.freeze(trained(task, tmp_path_factory.mktemp("trained")))
    compiled = tbt_compile.lower(frozen, [OLD, NEW, "host"])
    return compiled.save(tmp_path_factory.mktemp("compiled") / "model", task.tokenizer)


def trained(task: DemoTask, work: Path) -> PreTrainedModel:
    """A teacher and its student, as in the demo."""
    torch.manual_seed(0)  # a fixture of a module is made before the seeds of its first test are set
    model = new_model(SETTINGS.size, task.tokenizer, LENGTHS.longest, SETTINGS.seed)
    teacher = train_teacher(model, task.corpus, TrainingRun(work / "teacher", TEACHER))
    run = TrainingRun(work / "student", STUDENT)
    return distill(teacher, RECIPE, task.corpus, run, objective=SETTINGS.weights)


def tokens_of(task: DemoTask) -> tuple[Any, Any]:
    """The first test sentences as ids and mask [50, S]."""
    sentences = [pair.source for pair in task.data.test[:SENTENCES]]
    encoded = task.tokenizer(sentences, padding=True, return_tensors="np")
    return encoded["input_ids"], encoded["attention_mask"]


@pytest.mark.parametrize("cpu", EMULATED)
def test_the_same_tokens_for_fifty_sentences(
    folder: Path,
    task: DemoTask,
    cpu: str,
    machine: Callable[[str], Machine],
    environment: Environment,
) -> None:
    if environment.emulator is None and missing_features(parse_target(cpu)):
        pytest.skip(f"this machine cannot run code for {cpu}")
    ids, mask = tokens_of(task)
    expected = tbt_compile.load(folder).generate(ids, mask, max_new_tokens=LENGTHS.target)
    assert len(expected) == SENTENCES
    assert len({tuple(row) for row in expected.tolist()}) >= FEWEST_TEXTS, "constants prove little"
    other = machine(EMULATED[cpu])
    found = other.generate(folder, ids, mask, max_new_tokens=LENGTHS.target)
    np.testing.assert_array_equal(found, expected)
    assert f"compiled for {cpu} (aarch64, Linux), chosen from {OLD} (aarch64, Linux), {NEW} (" in other.model(
        folder
    )


def test_no_library_has_an_instruction_that_its_cpu_has_not(folder: Path, environment: Environment) -> None:
    found = {}
    for cpu in EMULATED:
        library = folder / f"model-{cpu}.so"
        counts = found[cpu] = instructions(environment, library, cpu)
        assert counts["ldr"] > 100 and counts["cnt"] > 0, "this is no disassembly of a library"
        assert counts[UNKNOWN] == 0, cpu
    # The disassembler knows them as what they are only where the CPU has them.
    assert [found[OLD][name] for name in DOT_PRODUCTS] == [0, 0]
    assert sum(found[NEW][name] for name in DOT_PRODUCTS) > 0
    misread = instructions(environment, folder / f"model-{NEW}.so", OLD)
    assert misread[UNKNOWN] == sum(found[NEW][name] for name in DOT_PRODUCTS)


def test_the_command_on_the_device(
    folder: Path, task: DemoTask, environment: Environment, machine: Callable[[str], Machine]
) -> None:
    """`tbt run` with nothing but what `pip install tbt-compile` brings."""
    sentence = task.data.test[0].source
    code = "import sys; from tbt_compile.cli import main; sys.argv[0] = 'tbt'; main()"
    options = ["run", str(folder), "--max-new-tokens", str(LENGTHS.target), sentence]
    done = subprocess.run(
        [*environment.command(OLD), "-c", code, *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **machine(OLD).variables},
        cwd=folder,  # and not the source tree, whose layout is another
    )
    assert done.returncode == 0, done.stderr
    assert f"chosen from {OLD}" in done.stderr
    ids = task.tokenizer([sentence], return_tensors="np")["input_ids"]
    tokens = tbt_compile.load(folder).generate(ids, max_new_tokens=LENGTHS.target)[0]
    assert done.stdout.rstrip("\n") == task.tokenizer.decode(tokens, skip_special_tokens=True)
