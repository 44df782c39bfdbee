"""Types of JSON values as data: what fits, and the place of what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbt_compile.recipe import Recipe
from tbt_compile.storage.field_types import Only, Row, misfit

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
TYPES: list[Any] = [str, int, float, bool, None]


def even(value: Any, place: str) -> str | None:
    return misfit(value, int, place) or (f"{place} is odd" if value % 2 else None)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a", str), (3, int), (3, float), (0.5, float), (True, bool), (None, None), ([], [int]),
        ({}, {str: int}),
        ([1, "a"], Row(int, str)), ({"a": 1}, {"a": int, "b?": str}), ({"a": 1, "more": 2}, {"a": int}),
        (None, (int, None)), (4, even), ([[2], [4, 6]], [[even]]), (object(), Any),
    ],
)  # fmt: skip
def test_what_fits(value: Any, wanted: Any) -> None:
    assert misfit(value, wanted) is None


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        (True, int, "it is True: expected an integer"),
        (1, bool, "it is 1: expected true or false"),
        (1.5, int, "it is 1.5: expected an integer"),
        ({"a": {"b": [1, None]}}, {"a": {"b": [int]}}, "a.b[1] is None: expected an integer"),
        ({}, {"a": str}, "a is missing"),
        ([1], Row(int, str), "x has 1 values: expected 2"),
        ({"n": {"x y": "1"}}, {"n": {str: int}}, "n['x y'] is '1': expected an integer"),
        ("a" * 99, int, f"it is '{'a' * 39}...: expected an integer"),
        ([2, 3], [even], "[1] is odd"),
        ({"a": 1, "b": 2}, Only({"a": int}), " has the field 'b'"),
        ("a", (int, None), "it is 'a': expected an integer"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, wanted: Any, message: str) -> None:
    assert misfit(value, wanted, "x" if isinstance(wanted, Row) else "") == message


@given(JSON)
def test_a_value_has_the_type_that_is_read_off_it(value: Any) -> None:
    def type_of(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: type_of(each) for name, each in part.items() if not name.endswith("?")}
        return Row(*map(type_of, part)) if isinstance(part, list) else None if part is None else type(part)

    assert misfit(value, type_of(value)) is None


@given(JSON, st.sampled_from(TYPES))
def test_no_value_breaks_the_check(value: Any, wanted: Any) -> None:
    for each in (wanted, [wanted], {str: wanted}, {"a": wanted}, Row(wanted), (wanted, [wanted])):
        found = misfit(value, each)
        assert found is None or found


@given(
    st.sampled_from(["2-2-2", "1-1-8", "32-2-8", "twn-2-2-2"]), st.booleans(), st.lists(st.text(max_size=4))
)
def test_a_recipe_is_what_its_json_says(text: str, center: bool, exclude: list[str]) -> None:
    recipe = Recipe.parse(text, center_weights=center, exclude=exclude)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
