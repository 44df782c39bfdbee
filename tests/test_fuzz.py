"""A sample of examples/benchmarks/fuzz.py: random inputs are accepted, or refused by a `TbtError`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

pytest.importorskip("cryptography", reason="cryptography is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"
INPUTS = 60
NAMES = ("recipes", "targets", "settings", "manifests", "tensor_files", "tokenizers", "keys", "configs")
NAMES += ("safetensors", "gguf", "json_lines", "arguments", "requests")


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import fuzz

        yield fuzz
    for name in ("fuzz", "fuzz_surfaces", "fuzz_files", "fuzz_folders", "fuzz_inputs"):
        sys.modules.pop(name, None)


def test_every_surface_is_sampled(fuzz: ModuleType) -> None:
    assert set(NAMES) == set(fuzz.SURFACES)


@pytest.mark.filterwarnings("ignore")  # of transformers, about configs that are wrong
@pytest.mark.parametrize("name", NAMES)
def test_random_inputs_are_accepted_or_refused(name: str, fuzz: ModuleType, tmp_path: Path) -> None:
    counts, faults, _ = fuzz.run(name, tmp_path, range(INPUTS), seed=1)
    assert dict(faults) == {}
    assert counts["accepted"] + counts["refused"] == INPUTS
    assert counts["refused"] > 0


def test_an_input_that_takes_for_ever_is_a_fault(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def endless(_chance: Random) -> None:
        while True:
            with suppress(Exception):
                time.sleep(0.01)

    kind, fault = fuzz.outcome(endless, Random(0))
    assert kind == "fault" and fault.startswith("TooLongError: more than 1 s (")
