"""Fifty random modules compute the same at every stage; a few of them are compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmarks"
COMPILED = (3, 14, 26, 41)


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import module_fuzz

        yield module_fuzz
    sys.modules.pop("module_fuzz", None)


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_random_module(script: Any, seed: int) -> None:
    result, why = script.outcome(seed, compiled=seed in COMPILED)
    assert result == "equal", why
