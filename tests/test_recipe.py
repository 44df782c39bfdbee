"""Recipes: notation, options, the registry, and what they refuse."""

import json

import pytest

from tbt_compile.encoding import Encoding
from tbt_compile.errors import RecipeError, TbtError
from tbt_compile.recipe import Recipe, names, register


@pytest.mark.parametrize("embedding", [1, 2, 8, 32])
@pytest.mark.parametrize("weight", [1, 2, 8, 32])
@pytest.mark.parametrize("activation", [1, 2, 8, 32])
def test_every_mix_of_bits_parses_and_prints(embedding, weight, activation):
    text = f"{embedding}-{weight}-{activation}"
    recipe = Recipe.parse(text)
    assert (recipe.embedding_bits, recipe.weight_bits, recipe.activation_bits) == (
        embedding,
        weight,
        activation,
    )
    assert str(recipe) == text
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert eval(repr(recipe), {"Recipe": Recipe}) == recipe


@pytest.mark.parametrize("text", ["2-2", "two", "2-2-3", "2-2-2-2", "", "4-4-4", "0-1-1"])
def test_a_wrong_recipe_is_refused_and_says_what_was_expected(text):
    with pytest.raises(RecipeError, match="expected"):
        Recipe.parse(text)


def test_options_are_checked():
    assert Recipe.parse("2-2-2", ste="clipped").ste == "clipped"
    with pytest.raises(RecipeError, match="Did you mean center_weights"):
        Recipe.parse("2-2-2", center_weight=False)
    with pytest.raises(RecipeError, match="one of clipped, identity"):
        Recipe.parse("2-2-2", ste="hard")
    with pytest.raises(RecipeError, match="sequence of name patterns"):
        Recipe.parse("2-2-2", exclude="lm_head")
    for name in ("conv", "center_weights", "center_activations"):
        with pytest.raises(RecipeError, match=f"recipe field {name}=1: expected True or False"):
            Recipe.parse("2-2-2", **{name: 1})


def test_named_recipes():
    assert Recipe.parse("1-1-8").ste == "identity"
    assert Recipe.parse("tbt-1-1-8") == Recipe.parse("1-1-8", ste="clipped")
    assert Recipe.parse("bwn-1-1-1").weight_method == "l2"
    assert not Recipe.parse("tbt-released-2-2-2").center_weights
    assert {"twn-2-2-2", "bwn-1-1-1", "tbt-2-2-2"} <= set(names())
    with pytest.raises(RecipeError, match="Did you mean"):
        Recipe.parse("tbt-2-2-9")
    with pytest.raises(RecipeError, match="already taken"):
        register("tbt-2-2-2", Recipe(1, 1, 1))
    assert issubclass(RecipeError, TbtError)


def test_encodings_of_the_papers_activation_categories():
    assert Encoding.for_activation(2, signed=True).levels == (-1, 0, 1)
    assert Encoding.for_activation(2, signed=False).levels == (0, 1, 2)
    assert Encoding.for_activation(1, signed=True).levels == (-1, 1)
    assert Encoding.for_activation(1, signed=False).levels == (0, 1)
    assert Encoding.for_weight(8).bits == 8
    with pytest.raises(RecipeError, match="4 bits"):
        Encoding.for_weight(4)


@pytest.mark.parametrize(
    ("notation", "options", "message"),
    [
        ("2-2-2", {"weight_method": "sign"}, "weight_method='sign' at 2-2-2: expected 1 or 32 bits"),
        ("2-2-2", {"activation_method": "sign"}, "activation_method='sign' at 2-2-2: expected 1 or 8 or 32"),
        ("1-1-8", {"attention": "bool"}, "attention='bool' at 1-1-8: expected 1 bits"),
        ("1-1-1", {"attention": "bool"}, "attention='bool' .* expected activation_method='sign'"),
        ("1-1-1", {"weight_method": "pruned"}, "weight_method='pruned' at 1-1-1: expected 32 bits"),
        ("2-2-2", {"split": ("*.fc1",)}, "split at 2-2-2: expected 1 bit"),
        ("32-32-32", {"weight_method": "pruned", "block": 0}, "block=0"),
        ("2-2-32", {"hadamard": ("*.fc2",)}, "hadamard at 2-2-32: expected 8 bits or fewer"),
    ],
)
def test_methods_that_need_certain_bits(notation, options, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(notation, **options)


def test_files_of_earlier_versions_keep_their_meaning():
    assert not {"attention", "split", "block", "hadamard"} & Recipe.parse("2-2-2").to_dict().keys()
    later = Recipe.parse("1-1-8", split=("*.fc1",))
    assert later.to_dict()["split"] == ["*.fc1"]
    assert Recipe.from_dict(later.to_dict()) == later
    rotated = Recipe.parse("2-2-8", hadamard=["*.out_proj", "*.fc2"])
    assert rotated.to_dict()["hadamard"] == ["*.out_proj", "*.fc2"]
    assert Recipe.from_dict(json.loads(json.dumps(rotated.to_dict()))) == rotated
    assert eval(repr(rotated), {"Recipe": Recipe}) == rotated
    with pytest.raises(RecipeError, match="hadamard=.*: expected a sequence of name patterns"):
        Recipe.parse("2-2-2", hadamard="*.fc2")
