"""Where time goes: kernels by kind, and a real run of a tiny model."""

from __future__ import annotations

import pytest

from tbt_compile.bench.generation import BenchSettings
from tbt_compile.bench.profile import OUTSIDE, profile, rows_of
from tbt_compile.errors import TbtError


def test_kernels_are_summed_by_kind() -> None:
    measured = {
        "encoder": [("linear_8_8_x", 3000), ("attention_8", 1000), ("linear_8_8_x", 2000)],
        "step": [("linear_99_8_y", 40_000), ("fused_add", 4000)],
        "outside": 50_000,
    }
    rows = rows_of(measured, "1-1-1", vocabulary=99, tokens=5)
    found = [(row["unit"], row["kind"], row["calls"], row["us"], round(row["share"], 2)) for row in rows]
    assert found == [
        ("encoder", "linear layers", 2, 5.0, 0.83),
        ("encoder", "attention", 1, 1.0, 0.17),
        ("step", "output projection", 1, 10.0, 0.48),
        ("step", OUTSIDE, 0, 10.0, 0.48),
        ("step", "masks, positions, sums", 1, 1.0, 0.05),
    ]


def test_a_tiny_model() -> None:
    settings = BenchSettings(shape="tiny", recipes=("1-1-1",), source_length=16, new_tokens=4, repeats=2)
    rows = profile(settings)["rows"]
    assert {row["unit"] for row in rows} == {"encoder", "step"}
    assert all(row["us"] > 0 for row in rows if row["kind"] in ("linear layers", "attention"))
    for unit in ("encoder", "step"):
        assert sum(row["share"] for row in rows if row["unit"] == unit) == pytest.approx(1)


def test_without_a_recipe_there_is_nothing_to_profile() -> None:
    with pytest.raises(TbtError, match="nothing to profile"):
        profile(BenchSettings(shape="tiny", recipes=(), source_length=16, new_tokens=4))
