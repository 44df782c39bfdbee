"""`TbtConfig`: how transformers says that a model is quantized by this package.

It is the `quantization_config` of a model's config, in memory and in `config.json`. That of a prepared
model, whose weights train on in full precision, is a recipe. That of a frozen model also describes the
packed tensors, so that the model can be built before they are read.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from tbt_compile.checkpoints.kinds import EARLIER_KEY, KEY, METHOD
from tbt_compile.errors import FormatError
from tbt_compile.recipe import Recipe


class TbtConfig(QuantizationConfigMixin):
    """A recipe as transformers takes it: `from_pretrained(..., quantization_config=TbtConfig("2-2-2"))`.

    Args:
        recipe: the paper's E-W-A notation, the name of a registered recipe, or a `Recipe`.
        frozen: the description of packed tensors that a frozen model is saved with; None while it trains.
        options: fields of the recipe by name, such as `exclude=("lm_head",)`.

    Raises:
        RecipeError: the recipe does not parse, or an option is unknown or out of range.

    >>> TbtConfig("2-2-8", exclude=("lm_head",)).recipe
    Recipe.parse('2-2-8', exclude=('lm_head',))
    """

    quant_method: Any = METHOD

    def __init__(
        self, recipe: str | Recipe = "2-2-2", *, frozen: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.quant_method = METHOD
        self.recipe = Recipe.parse(recipe, **options)
        self.frozen = frozen

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a config from what `to_dict` returned.

        Args:
            config_dict: the values.
            return_unused_kwargs: whether to return the unused ones of `kwargs`, too.
            kwargs: none are used.

        Returns:
            The config, or the config and `kwargs`.

        Raises:
            FormatError: a value has another form.
            RecipeError: a field of the recipe is unknown or out of range.
        """
        values = config_dict.get("recipe")
        if not isinstance(values, dict):
            raise FormatError(
                f"the quantization_config of method {METHOD!r} has the recipe {values!r}: expected its "
                "fields by name; save the model again"
            )
        config = cls(Recipe.from_dict(values), frozen=config_dict.get("frozen"))
        return (config, kwargs) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """The values as `config.json` holds them."""
        values: dict[str, Any] = {"quant_method": METHOD, "recipe": self.recipe.to_dict()}
        return values if self.frozen is None else {**values, "frozen": self.frozen}


def quantization_of(config: PreTrainedConfig) -> TbtConfig | None:
    """The quantization by this package that a model's config names; None for any other model.

    Raises:
        FormatError, RecipeError: it is damaged.
    """
    found = getattr(config, KEY, None)
    if isinstance(found, TbtConfig):
        return found
    if isinstance(found, dict) and found.get("quant_method") == METHOD:
        return TbtConfig.from_dict(found)
    earlier = getattr(config, EARLIER_KEY, None)
    return None if earlier is None else TbtConfig(Recipe.from_dict(earlier))


def set_quantization(config: PreTrainedConfig, quantization: TbtConfig | None) -> None:
    """Replace the quantization that a config names, in every spelling."""
    for key in (KEY, EARLIER_KEY):
        if hasattr(config, key):
            delattr(config, key)
    if quantization is not None:
        config.quantization_config = quantization
