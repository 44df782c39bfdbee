"""One folder for this machine and two AArch64 CPUs, and the demo's sentences: the same tokens on each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arm.environment import Environment
from arm.kernels import EMULATED
from arm.machine import Machine
from arm.machine_code import DOT_PRODUCTS, UNKNOWN, instructions
from torch import nn

import tbt_compile
from tbt_compile.codegen.host import missing_features
from tbt_compile.codegen.target import parse_target
from tbt_compile.demo.task import MAX_SOURCE_LENGTH, MAX_TARGET_LENGTH, DemoTask, build_task
from tbt_compile.training import ModelSize, new_model

SENTENCES = 50
SIZE = ModelSize(width=64, layers=1, heads=2, inner=128)
OLD, NEW = EMULATED


@pytest.fixture(scope="module")
def task(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> DemoTask:
    return build_task(tmp_path_factory.mktemp("demo"), train=400, test=SENTENCES, seed=1)


@pytest.fixture(scope="module")
def folder(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model; its large weights make it write something else for every sentence."""
    model = new_model(SIZE, task.tokenizer, MAX_SOURCE_LENGTH, seed=1)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    prepared = tbt_compile.prepare(model, "2-2-2")
    ids, mask = (torch.tensor(array) for array in tokens_of(task))
    with torch.no_grad():
        prepared(ids, mask, decoder_input_ids=ids[:, :8])
    compiled = tbt_compile.lower(prepared.eval(), [OLD, NEW, "host"])
    return compiled.save(tmp_path_factory.mktemp("compiled") / "model", task.tokenizer)


def tokens_of(task: DemoTask) -> tuple[Any, Any]:
    """The test sentences as ids and mask [50, S]."""
    encoded = task.tokenizer([pair.source for pair in task.data.test], padding=True, return_tensors="np")
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
    expected = tbt_compile.load(folder).generate(ids, mask, max_new_tokens=MAX_TARGET_LENGTH)
    assert len(expected) == SENTENCES
    assert len({tuple(row) for row in expected.tolist()}) == SENTENCES, "constants prove little"
    other = machine(EMULATED[cpu])
    found = other.generate(folder, ids, mask, max_new_tokens=MAX_TARGET_LENGTH)
    np.testing.assert_array_equal(found, expected)
    assert f"compiled for {cpu} (aarch64), chosen from {OLD} (aarch64), {NEW} (" in other.model(folder)


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
    options = ["run", str(folder), "--max-new-tokens", str(MAX_TARGET_LENGTH), sentence]
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
    tokens = tbt_compile.load(folder).generate(ids, max_new_tokens=MAX_TARGET_LENGTH)[0]
    assert done.stdout.rstrip("\n") == task.tokenizer.decode(tokens, skip_special_tokens=True)
