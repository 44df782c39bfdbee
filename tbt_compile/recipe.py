"""Recipes say how to quantize a model: the paper's E-W-A notation plus named options."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tbt_compile.encoding import SUPPORTED_BITS
from tbt_compile.errors import RecipeError, did_you_mean

_NOTATION = re.compile(r"(\d+)-(\d+)-(\d+)")
_CHOICES = {
    "ste": ("clipped", "identity", "trust"),
    "activation_ste": ("clipped", "trust"),
    "gelu": ("signed", "nonnegative"),
    "weight_method": ("stats", "l2", "learned", "sign", "scaled", "pruned"),
    "activation_method": ("learned", "statistical", "sign"),
    "initial_scale": ("magnitude", "l2"),
    "attention": ("softmax", "bool"),
}
# Fields added later are written only if they differ from the default: older files and records stay equal.
_LATER = (
    "initial_scale",
    "attention",
    "split",
    "block",
    "conv",
    "activation_ste",
    "activation_offset",
    "dead_zone",
    "hadamard",
)


@dataclass(frozen=True)
class Recipe:
    """How many bits each part of a model is quantized to, and by which method.

    Attributes:
        embedding_bits: E of the paper's E-W-A notation: 1 is binary, 2 ternary, 8 eight-bit integers, 32
            not quantized.
        weight_bits: W, the bits of linear weights.
        activation_bits: A, the bits of activations.
        output_projection_activation_bits: bits of the input of the output projection (`lm_head`). Its
            weight has `embedding_bits` if it is tied to the embedding, else `weight_bits`. The input stays
            in full precision if that weight or `activation_bits` has 32 bits.
        exclude: `fnmatch` patterns; modules whose dotted name matches stay in full precision.
        center_weights: subtract the row mean before quantizing a weight (Eq. 8 and 9).
        center_activations: subtract the token mean before quantizing a signed activation (X' of Eq. 11-14).
        ste: straight-through estimator of weights. "identity" passes every gradient, as the paper's
            released code does; "clipped" is Eq. 10, which zeroes the gradient of weights beyond the scale;
            "trust" zeroes that of weights farther from their level than half a step (QuEST,
            arXiv:2502.05003).
        activation_ste: straight-through estimator of activations with learned scales. "clipped" is that of
            Eq. 12 and 14; "trust" passes half a step more on either side, as QuEST does.
        gelu: category of GELU outputs. "signed" follows the data flow (GELU reaches -0.17);
            "nonnegative" puts them in the paper's first category and clips negative values to zero.
        weight_method: "stats" is Eq. 8-9, "l2" is TWN/BWN (Eq. 1-5), both per output row. From other
            papers: "learned" has a learned scale per row (ParetoQ), "scaled" a learned factor (QuantBart),
            "sign" is BiBERT's, and "pruned" prunes blocks of `block` rows and columns by movement (at 32
            weight bits).
        activation_method: "learned" is Eq. 11-14, "statistical" applies Eq. 1-5 per token, "sign" (one bit,
            BiBERT) has no scale.
        activation_offset: learn a number that is subtracted before an activation with a learned scale is
            rounded, in place of the token's mean (BiT, arXiv:2205.13016). Not before attention weights: those
            of masked positions stay 0.
        dead_zone: lambda of Tequila (arXiv:2509.23809): the weights of a linear layer whose ternary code is
            0 add `lambda * sum` of theirs to the bias of their row, and so keep a gradient; 0: they do not.
            Freezing folds it into the bias.
        initial_scale: how a learned scale is initialized from the first tensor seen. "magnitude" is a
            multiple of the mean magnitude (LSQ), "l2" a nearby scale with least squared error.
        attention: "softmax", or "bool": one-bit attention weights, 1 where the score is not negative
            (BiBERT's Bi-Attention); it needs `activation_method="sign"`.
        split: `fnmatch` patterns; the binary weights of matching modules become the sum of two binary
            matrices (BinaryBERT).
        block: side of a pruned block, in rows and in columns.
        conv: whether Conv1d and Conv2d are quantized, as products of their windows with their weights
            (im2col). 1x1 convolutions without padding are linear layers, and quantized in any case; grouped,
            transposed and 3d convolutions never are.
        hadamard: `fnmatch` patterns; the inputs of matching linear layers are rotated in blocks of a Hadamard
            matrix before they are quantized, and the weights by the same (BitNet v2, see
            `tbt_compile.quantizers.hadamard`). Its layers are those after attention and in the second place
            of feed-forward blocks: `("*.out_proj", "*.fc2")` of BART, `("*.o_proj", "*.down_proj")` of Llama.

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
    activation_ste: str = "clipped"
    activation_offset: bool = False
    dead_zone: float = 0.0
    initial_scale: str = "magnitude"
    attention: str = "softmax"
    split: tuple[str, ...] = ()
    block: int = 32
    conv: bool = False
    hadamard: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("embedding_bits", "weight_bits", "activation_bits", "output_projection_activation_bits"):
            bits = getattr(self, name)
            if type(bits) is not int or bits not in SUPPORTED_BITS:
                raise RecipeError(
                    f"recipe field {name}={bits!r}: expected 1 (binary), 2 (ternary), 8 or 32 (not quantized)"
                )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise RecipeError(
                    f"recipe field {name}={getattr(self, name)!r}: expected one of {', '.join(choices)}"
                )
        for name in ("center_weights", "center_activations", "activation_offset", "conv"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(f"recipe field {name}={getattr(self, name)!r}: expected True or False")
        for name in ("exclude", "split", "hadamard"):
            patterns = getattr(self, name)
            if isinstance(patterns, str) or not isinstance(patterns, Iterable):
                raise RecipeError(f"recipe field {name}={patterns!r}: expected a sequence of name patterns")
            for pattern in patterns:
                if not isinstance(pattern, str):
                    raise RecipeError(f"recipe field {name} holds {pattern!r}: expected patterns of names")
            object.__setattr__(self, name, tuple(patterns))
        self._require_bits()
        if type(self.dead_zone) not in (int, float) or not 0 <= self.dead_zone < math.inf:
            raise RecipeError(f"recipe field dead_zone={self.dead_zone!r}: expected a number, 0 or more")
        if type(self.block) is not int or self.block < 1:
            raise RecipeError(f"recipe field block={self.block!r}: expected a number of rows, 1 or more")

    def _require_bits(self) -> None:
        """Refuse methods that are not defined for the bits of this recipe."""
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
        if self.attention == "bool" and self.activation_method != "sign":
            raise RecipeError(
                f"recipe field attention='bool' with activation_method={self.activation_method!r}: attention "
                "weights of 0 or 1 have no scale; expected activation_method='sign'"
            )
        if self.split and self.weight_bits != 1:
            raise RecipeError(f"recipe field split at {self.notation}: expected 1 bit for weights")
        if self.hadamard and 32 in (self.weight_bits, self.activation_bits):
            raise RecipeError(f"recipe field hadamard at {self.notation}: expected 8 bits or fewer, not 32")

    @classmethod
    def parse(cls, text: str | Recipe, **options: Any) -> Recipe:
        """Parse E-W-A notation ("2-2-8") or look up a registered name ("twn-2-2-2"), then apply options.

        Args:
            text: notation, name, or a recipe to change.
            options: fields of the recipe by name.

        Returns:
            The recipe.

        Raises:
            RecipeError: the text is neither, or an option is unknown or out of range.
        """
        return cls._with_options(text if isinstance(text, Recipe) else _lookup(text), options)

    @classmethod
    def _with_options(cls, base: Recipe, options: Mapping[str, Any]) -> Recipe:
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
        """Return the fields as JSON-ready values; later additions only if they differ from the default."""
        plain = Recipe()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in _LATER or value != getattr(plain, name)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Build a recipe from what `to_dict` returned; missing fields take their defaults.

        Raises:
            RecipeError: a field is unknown or out of range.
        """
        if not isinstance(values, dict):
            raise RecipeError(f"a recipe is {values!r}: expected an object with fields of Recipe")
        return cls._with_options(cls(), values)

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
    """Return the names of the registered recipes."""
    return tuple(sorted(_REGISTRY))


def register(name: str, recipe: Recipe) -> Recipe:
    """Register a recipe under a name that `Recipe.parse` accepts.

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
