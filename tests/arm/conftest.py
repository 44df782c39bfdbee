"""The AArch64 machines that the tests of this folder run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from arm.environment import COMMAND, Environment, find
from arm.kernels import EMULATED
from arm.machine import Machine

from tbt_compile.codegen.target.host import missing_features
from tbt_compile.codegen.target.parse import parse_target

REQUIRED = "TBT_REQUIRE_ARM"


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Where the machines are; without it tests are skipped, or fail where it must not be missing."""
    found = find()
    if found is not None:
        return found
    reason = f"there is no emulated AArch64 machine: `{COMMAND}` builds it"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1 asks for it")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def machine(
    environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Machine]]:
    """The machine with a CPU, by QEMU's name; started at its first use, and then kept."""
    running: dict[str, Machine] = {}

    def get(cpu: str) -> Machine:
        if cpu not in running:
            running[cpu] = Machine(environment, cpu, tmp_path_factory.mktemp(cpu))
        return running[cpu]

    yield get
    for one in running.values():
        one.close()


@pytest.fixture(scope="module", params=list(EMULATED))
def target(
    request: pytest.FixtureRequest, environment: Environment, machine: Callable[[str], Machine]
) -> tuple[str, Machine]:
    """A CPU to compile for, and a machine that can run its code."""
    cpu = request.param
    if environment.emulator is None and missing_features(parse_target(cpu)):
        pytest.skip(f"this machine cannot run code for {cpu}")
    return cpu, machine(EMULATED[cpu])
