"""Whole models compiled for AArch64 CPUs: the same tokens as on this machine, and clear refusals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm.environment import Environment
from arm.kernels import EMULATED
from arm.machine import Machine, RemoteError
from arm.machine_code import DOT_PRODUCTS, UNKNOWN, instructions
from compiled_tools import eager_tokens, sources, step_logits, trained
from models import PAD, VOCABULARY, bart
from once import only

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.codegen.library.link import linker_command
from tbt_compile.codegen.target.host import missing_features
from tbt_compile.codegen.target.parse import parse_target

RECIPES = ("2-2-2", "1-1-1", "2-2-8")
OLD, NEW = "cortex-a72", "cortex-a76"
NEWEST = EMULATED[NEW]
POSITIONS = 150  # more than two words of packed values
SEARCHES = ({"num_beams": 1}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 2})
BATCHES = ((5, 13), (1, 1), (2, 70))
# A program that runs one SDOT, written as a number since not every assembler knows it, and exits.
DOT_PRODUCT = """
.globl _start
_start:
    .inst 0x4e829420
    mov x0, #0
    mov x8, #93
    svc #0
"""


@dataclass(frozen=True)
class Case:
    """One model, compiled for this machine and, in a folder, for the old CPU."""

    prepared: Any
    here: CompiledModel
    folder: Path


@pytest.fixture(scope="module", params=RECIPES)
def case(
    request: pytest.FixtureRequest, environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    prepared = trained(bart(max_position_embeddings=POSITIONS), request.param)
    folder = tmp_path_factory.mktemp("compiled") / request.param
    both = tbt_compile.lower(prepared, [OLD, "host"])
    only(both, OLD).save(folder)
    return Case(prepared, only(both, parse_target("host").mcpu), folder)


@pytest.fixture(scope="module")
def newer(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model with byte products, and its folder for the new CPU."""
    prepared = trained(bart(max_position_embeddings=POSITIONS), "2-2-8")
    folder = tmp_path_factory.mktemp("newer") / "model"
    tbt_compile.lower(prepared, NEW).save(folder)
    return prepared, folder


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize(("rows", "longest"), BATCHES)
def test_the_same_tokens_as_on_this_machine(
    case: Case, machine: Callable[[str], Machine], search: dict[str, int], rows: int, longest: int
) -> None:
    ids, mask = sources(PAD, rows, longest)
    expected = case.here.generate(ids, mask, max_new_tokens=12, **search)
    found = machine(OLD).generate(case.folder, ids, mask, max_new_tokens=12, **search)
    np.testing.assert_array_equal(found, expected)


def test_the_same_logits_at_every_step(case: Case, machine: Callable[[str], Machine]) -> None:
    """Bit for bit, over more tokens than a word of packed values has."""
    ids, mask = sources(PAD)
    decoder = np.random.default_rng(4).integers(3, VOCABULARY, (len(ids), 70))
    found = machine(OLD).logits(case.folder, ids, mask, decoder)
    expected = np.stack(step_logits(case.here, ids, mask, decoder))
    assert np.median(np.ptp(expected, axis=(0, 1))) > 1, "comparing constants would be worth nothing"
    np.testing.assert_array_equal(found, expected)


def test_the_old_cpu_gets_no_newer_instruction(case: Case, environment: Environment) -> None:
    counts = instructions(environment, case.folder / "model.so", OLD)
    assert counts["ldr"] > 100, "this is no disassembly of a library"
    assert counts[UNKNOWN] == 0


def test_a_newer_cpu_runs_its_own_code(
    newer: tuple[Any, Path], machine: Callable[[str], Machine], environment: Environment
) -> None:
    if environment.emulator is None and missing_features(parse_target(NEW)):
        pytest.skip(f"this machine cannot run code for {NEW}")
    prepared, folder = newer
    counts = instructions(environment, folder / "model.so", NEW)
    assert counts[UNKNOWN] == 0
    assert sum(counts[name] for name in DOT_PRODUCTS) > 0
    ids, mask = sources(PAD)
    for beams in (1, 4):
        expected = eager_tokens(prepared, ids, mask, num_beams=beams, max_new_tokens=12)
        found = machine(NEWEST).generate(folder, ids, mask, num_beams=beams, max_new_tokens=12)
        np.testing.assert_array_equal(found, expected)


def test_code_for_a_newer_cpu_is_refused(
    newer: tuple[Any, Path], machine: Callable[[str], Machine], environment: Environment
) -> None:
    if environment.emulator is None:
        pytest.skip("only an emulator can take instructions away")
    with pytest.raises(
        RemoteError, match=f"compiled for {NEW}, and this machine .* lacks .*dotprod"
    ) as error:
        machine(OLD).generate(newer[1], *sources(PAD))
    assert error.value.kind == "TargetError"
    # What it says to compile for instead can be compiled for, and runs on that machine.
    instead = parse_target(re.search(r", or '(.+)'", str(error.value))[1])
    described = machine(OLD).describe()  # which also shows that the worker still runs
    assert instead.arch == described["arch"]
    assert "dotprod" not in instead.features


def test_code_for_x86_is_refused(case: Case, machine: Callable[[str], Machine], tmp_path: Path) -> None:
    x86 = case.here if case.here.target.arch == "x86_64" else tbt_compile.lower(case.prepared, "haswell")
    folder = x86.save(tmp_path / "x86")
    with pytest.raises(
        RemoteError, match=r"compiled for .* \(x86_64, Linux\) and this machine is aarch64"
    ) as error:
        machine(OLD).generate(folder, *sources(PAD))
    assert error.value.kind == "TargetError"


@pytest.mark.parametrize(("cpu", "code"), [(OLD, -signal.SIGILL), (NEWEST, 0)])
def test_the_emulated_cpus_differ(environment: Environment, tmp_path: Path, cpu: str, code: int) -> None:
    """An instruction that a CPU does not have ends the program, as it would on that CPU."""
    if environment.emulator is None:
        pytest.skip("only an emulator can take instructions away")
    source, program = tmp_path / "dot.s", tmp_path / "dot"
    source.write_text(DOT_PRODUCT)
    caches = {f"ZIG_{name}_CACHE_DIR": str(tmp_path) for name in ("GLOBAL", "LOCAL")}
    command = [*linker_command(parse_target(OLD)), "-nostdlib", "-static", "-o", program, source]
    subprocess.run(command, check=True, env={**os.environ, **caches})
    done = subprocess.run([environment.emulator, "-cpu", cpu, program], capture_output=True, check=False)
    assert done.returncode == code
