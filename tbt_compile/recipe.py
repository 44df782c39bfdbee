"""Recipes: how a model is to be quantized, in the paper's E-W-A notation plus named options."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tbt_compile.encoding import SUPPORTED_BITS
from tbt_compile.errors import RecipeError, did_you_mean

_NOTATION = re.compile(r"(\d+)-(\d+)-(\d+)")
_CHOICES = {
    "ste": ("clipped", "identity"),
    "gelu": ("signed", "nonnegative"),
    "weight_method": ("stats", "l2", "sign", "scaled", "pruned"),
    "activation_method": ("learned", "statistical", "sign"),
    "initial_scale": ("magnitude", "l2"),
    "attention": ("softmax", "bool"),
}
# Fields that came later stand in a file only where they differ: older files and records keep their meaning.
_LATER = ("initial_scale", "attention", "split", "block")


@dataclass(frozen=True)
class Recipe:
    """What is quantized to how many bits, and by which method.

    `embedding_bits`, `weight_bits` and `activation_bits` are the paper's E-W-A: 1 is binary, 2 ternary, 8
    eight-bit integers and 32 not quantized.

    Attributes:
        output_projection_activation_bits: bits of the input of the output projection (`lm_head`). Its
            weight is at `embedding_bits` when it is tied to the embedding, else at `weight_bits`. With
            activations or that weight at 32 bits its input is not quantized either.
        exclude: `fnmatch` patterns; a module whose dotted name matches one is left in full precision.
        center_weights: subtract the row mean before quantizing a weight (Eq. 8 and 9).
        center_activations: subtract the token mean before quantizing a signed activation (X' of Eq. 11-14).
        ste: gradient of weights; "identity" passes every gradient through, as the paper's released code does,
            "clipped" is Eq. 10, which stops that of a weight beyond its scale.
        gelu: category of GELU outputs. "signed" follows the data flow (GELU reaches -0.17);
            "nonnegative" treats them as the paper's first category and clips what is below zero.
        weight_method: "stats" is Eq. 8-9, "l2" is TWN/BWN (Eq. 1-5), both per output row. Of other papers:
            "sign" (BiBERT), "scaled" with a learned factor (QuantBart), "pruned" in blocks at full precision
            (movement pruning, `block` rows and columns each, at 32 weight bits).
        activation_method: "learned" is Eq. 11-14, "statistical" applies Eq. 1-5 per token, "sign" (one bit)
            has no scale at all (BiBERT).
        initial_scale: where a learned scale starts, from the first tensor seen. "magnitude" is a multiple of
            the mean magnitude (LSQ), "l2" the scale with the least squared error near it.
        attention: "bool" has one-bit attention weights that are 1 where the score is not negative, instead of
            a softmax (BiBERT's Bi-Attention).
        split: `fnmatch` patterns; the binary weight of a module whose dotted name matches one is a sum of two
            binary matrices (BinaryBERT).

    >>> Recipe.parse("2-2-8")
    Recipe.parse('2-2-8')
    >>> Recipe.parse("1-1-1", gelu="nonnegative").gelu
    'nonnegative'
    """

    embedding_bits: int = 2
    weight_bits: int = 2
    activation_bits: int = 2
    output_projection_activation_bits: int = 8
    exclude: tuple[str, ...] = ()
    center_weights: bool = True
    center_activations: bool = True
    ste: str = "identity"
    gelu: str = "signed"
    weight_method: str = "stats"
    activation_method: str = "learned"
    initial_scale: str = "magnitude"
    attention: str = "softmax"
    split: tuple[str, ...] = ()
    block: int = 32

    def __post_init__(self) -> None:
        for name in ("embedding_bits", "weight_bits", "activation_bits", "output_projection_activation_bits"):
            bits = getattr(self, name)
            if bits not in SUPPORTED_BITS or isinstance(bits, bool):
                raise RecipeError(
                    f"recipe field {name}={bits!r}: expected 1 (binary), 2 (ternary), 8 or 32 (not quantized)"
                )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise RecipeError(
                    f"recipe field {name}={getattr(self, name)!r}: expected one of {', '.join(choices)}"
                )
        for name in ("exclude", "split"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                raise RecipeError(f"recipe field {name}={patterns!r}: expected a sequence of name patterns")
            object.__setattr__(self, name, tuple(patterns))
        self._require_bits()
        if self.block < 1:
            raise RecipeError(f"recipe field block={self.block!r}: expected a number of rows, 1 or more")

    def _require_bits(self) -> None:
        """Some methods are defined for some bits alone."""
        weights, activations = {self.embedding_bits, self.weight_bits}, {self.activation_bits}
        for name, value, bits, allowed in (
            ("weight_method", "sign", weights, {1, 32}),
            ("weight_method", "pruned", weights, {32}),
            ("activation_method", "sign", activations, {1, 8, 32}),
            ("attention", "bool", activations, {1}),
        ):
            if getattr(self, name) == value and not bits <= allowed:
                raise RecipeError(
                    f"recipe field {name}={value!r} at {self.notation}: expected "
                    f"{' or '.join(map(str, sorted(allowed)))} bits there"
                )
        if self.split and self.weight_bits != 1:
            raise RecipeError(f"recipe field split at {self.notation}: expected 1 bit for weights")

    @classmethod
    def parse(cls, text: str | Recipe, **options: Any) -> Recipe:
        """A recipe from E-W-A notation ("2-2-8") or a registered name ("twn-2-2-2"), with named options.

        Raises:
            RecipeError: the text is neither, or an option is unknown or out of range.
        """
        base = text if isinstance(text, Recipe) else _lookup(text)
        known = {field.name for field in fields(cls)}
        for name in options:
            if name not in known:
                raise RecipeError(
                    f"unknown recipe option {name!r}: expected one of {', '.join(sorted(known))}."
                    + did_you_mean(name, known)
                )
        return replace(base, **options)

    @property
    def notation(self) -> str:
        """The paper's E-W-A notation, without the options."""
        return f"{self.embedding_bits}-{self.weight_bits}-{self.activation_bits}"

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON-ready values; later additions only where they are not at their default."""
        plain = Recipe()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in _LATER or value != getattr(plain, name)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`; fields that are absent take their defaults.

        Raises:
            RecipeError: a field is unknown or out of range.
        """
        return cls.parse(cls(), **values)

    def __repr__(self) -> str:
        plain = Recipe(self.embedding_bits, self.weight_bits, self.activation_bits)
        options = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(plain, field.name)
        ]
        return f"Recipe.parse({', '.join([repr(self.notation), *options])})"

    def __str__(self) -> str:
        return self.notation


def names() -> tuple[str, ...]:
    """Names of the registered recipes."""
    return tuple(sorted(_REGISTRY))


def register(name: str, recipe: Recipe) -> Recipe:
    """Add a named recipe, so that `Recipe.parse(name)` finds it.

    Raises:
        RecipeError: the name is taken by another recipe.
    """
    if _REGISTRY.get(name, recipe) != recipe:
        raise RecipeError(
            f"recipe name {name!r} is already taken by {_REGISTRY[name]!r}: choose another name"
        )
    _REGISTRY[name] = recipe
    return recipe


def _lookup(text: str) -> Recipe:
    if text in _REGISTRY:
        return _REGISTRY[text]
    match = _NOTATION.fullmatch(str(text).strip())
    if not match:
        raise RecipeError(
            f"recipe {text!r} is not understood: expected embedding-weight-activation bits such as '2-2-2' "
            f"or '1-1-8', or one of {', '.join(names())}." + did_you_mean(str(text), names())
        )
    embedding, weight, activation = map(int, match.groups())
    return Recipe(embedding, weight, activation)


_REGISTRY: dict[str, Recipe] = {}
for _notation in ("2-2-2", "2-2-8", "1-1-1", "1-1-8"):
    _paper = register(f"tbt-{_notation}", replace(_lookup(_notation), ste="clipped"))
    # The released training code: no mean subtraction and a straight-through estimator without clipping.
    _released = replace(_paper, center_weights=False, center_activations=False, ste="identity")
    register(f"tbt-released-{_notation}", _released)
    _baseline = "twn" if _paper.weight_bits == 2 else "bwn"
    register(
        f"{_baseline}-{_notation}",
        replace(_released, weight_method="l2", activation_method="statistical"),
    )
