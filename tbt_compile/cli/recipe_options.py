"""Fields of a recipe on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tbt_compile.errors import RecipeError
from tbt_compile.recipe import Recipe


def recipe_with(recipe: str, options: Sequence[str]) -> Recipe:
    """The recipe with some fields changed.

    Args:
        recipe: notation or name.
        options: `NAME=VALUE`; a value that is no JSON is text.

    Raises:
        RecipeError: an option has no value, or the recipe or a field is not understood.

    >>> recipe_with("2-2-2", ["ste=trust", "dead_zone=0.001"])
    Recipe.parse('2-2-2', ste='trust', dead_zone=0.001)
    """
    fields: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise RecipeError(f"--recipe-option {option}: expected NAME=VALUE, such as ste=trust")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return Recipe.parse(recipe, **fields)
