"""Random generation configs on a compiled model; see examples/benchmarks/generation_fuzz.py."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from compiled_tools import Case

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import generation_fuzz

    yield generation_fuzz
    for name in ("generation_fuzz", "agreement_models"):
        sys.modules.pop(name, None)


def test_nothing_is_dropped_in_silence(script: Any, case: Case) -> None:
    fuzz = script.Fuzz(case.eager, case.compiled, seed=3)
    draws = [fuzz.draw() for _ in range(40)]
    assert [drawn for outcome, drawn in draws if outcome == "different"] == []
    counts = Counter(outcome for outcome, _ in draws)
    assert counts["equal"] >= 10
    assert counts["refused"] >= 5


def test_types_that_json_does_not_have(script: Any, case: Case) -> None:
    fields = {
        "sequence_bias": {(16,): -50.0, (83, 5): 7.5},
        "exponential_decay_length_penalty": (4, 1.9),
        "eos_token_id": (2, 34, 9),
        "suppress_tokens": {40, 41},
        "begin_suppress_tokens": range(20, 30),
        "num_beams": 3,
    }
    ids, mask = script.Fuzz(case.eager, case.compiled, seed=0)._batch()
    own = case.eager.generation_config
    try:
        case.eager.generation_config = script.Fuzz(case.eager, case.compiled, 0)._config(
            {"max_new_tokens": 16, **fields}
        )
        model = script.reconfigured(case.compiled, case.eager)
        expected = case.eager.generate(
            script.torch.tensor(ids), attention_mask=script.torch.tensor(mask), do_sample=False
        )
    finally:
        case.eager.generation_config = own
    assert model.description["generation"]["sequence_bias"] == [[[16], -50.0], [[83, 5], 7.5]]
    assert model.generate(ids, mask).tolist() == expected.tolist()
