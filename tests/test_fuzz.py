"""A sample of examples/benchmarks/fuzz.py: random inputs are accepted, or refused by a `TbtError`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
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
