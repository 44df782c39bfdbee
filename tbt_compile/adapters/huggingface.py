"""The adapter for transformers models.

Most model families need no entry here. One is needed for a linear layer that is not `nn.Linear`
(`quantized_form`) and for attention whose products are outside the module's `forward` and transformers'
attention interface (`attention_function`); `docs/extending/add-a-model-family.md` shows how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer

from tbt_compile.adapters import attention, call_record, decoder_units, pretrained, seq2seq_units
from tbt_compile.adapters.base import Adapter
from tbt_compile.adapters.conv1d import QuantizedConv1D
from tbt_compile.adapters.decode_settings import check_search, generation_settings
from tbt_compile.adapters.example_inputs import example_inputs
from tbt_compile.adapters.local_attention import local_attention
from tbt_compile.adapters.quantization_config import TbtConfig, quantization_of, set_quantization
from tbt_compile.adapters.resizing import resize_quantized
from tbt_compile.adapters.rope import original_frequencies
from tbt_compile.adapters.units import ExportUnits
from tbt_compile.errors import PlanError
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


class HuggingFaceAdapter(Adapter):
    """Adapter for models that derive from `PreTrainedModel`."""

    def check(self, model: nn.Module) -> None:
        """Refuse state-space models and mixtures of experts: most of their weights are in no linear layer."""
        name = type(model).__name__
        kinds = {kind for part in _with_parts(_pretrained(model).config) for kind in _layer_types(part)}
        other = sorted(kind for kind in kinds if "attention" not in kind or kind == "linear_attention")
        if getattr(model, "_is_stateful", False) or other:
            found = f"its layers are {', '.join(other)}" if other else "it has a state of its own"
            raise PlanError(
                f"{name} is a state-space, recurrent or linear-attention model ({found}): expected attention "
                "with a cache of keys and values in every layer; choose such a model"
            )
        for path, module in model.named_modules():
            if _holds_experts(module):
                raise PlanError(
                    f"{name} is a mixture of experts: {path} ({type(module).__name__}) chooses experts by "
                    "the values of each token, which is not supported; choose a dense model"
                )

    def example_inputs(self, model: nn.Module) -> dict[str, Any]:
        """Make token ids and masks from the config."""
        return example_inputs(_pretrained(model))

    def example_call(self, model: nn.Module, shared: bool = False) -> dict[str, Any]:
        """Make keyword arguments from the record of the call, or from the config."""
        recorded = call_record.recorded(model)
        return self.example_inputs(model) if recorded is None else super().example_call(model, shared)

    @contextmanager
    def capturing(self, model: nn.Module) -> Iterator[None]:
        """Switch to eager attention and turn the KV cache off.

        Other attention implementations hide softmax and products in one operator. The cache is not needed,
        as the graph of a whole sequence shows all there is to quantize, and torch.export cannot return it.
        """
        parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
        configs = {id(config): config for part in parts for config in _with_parts(part.config)}.values()
        implementations = [config._attn_implementation for config in configs]
        caching = [config for config in configs if getattr(config, "use_cache", False)]
        _pretrained(model).set_attn_implementation("eager")
        for config in caching:
            config.use_cache = False
        try:
            with original_frequencies(_pretrained(model)), local_attention(model):
                yield
        finally:
            for config, implementation in zip(configs, implementations, strict=True):
                config._attn_implementation = implementation  # of its parts too, which come later
            for config in caching:
                config.use_cache = True

    def output_projection(self, model: nn.Module) -> str | None:
        """Return the dotted name of the model's output embeddings."""
        head = _pretrained(model).get_output_embeddings()
        return next((name for name, module in model.named_modules() if module is head), None)

    def attention_function(self, module: nn.Module) -> Callable[..., Any] | None:
        """Return the eager attention function in the file that defines the module."""
        return attention.eager_function(module)

    def quantized_form(self, module: nn.Module) -> type[nn.Module] | None:
        """Return the quantized class, also for Conv1D, GPT-2's linear layer."""
        return QuantizedConv1D if isinstance(module, Conv1D) else super().quantized_form(module)

    def convert_to_float32(self, model: nn.Module) -> None:
        """Convert the model, and the dtype in its configs, which some models read."""
        super().convert_to_float32(model)
        for part in model.modules():
            if isinstance(part, PreTrainedModel) and part.config.dtype is not None:
                part.config.dtype = torch.float32

    def stored_recipe(self, model: nn.Module) -> Recipe | None:
        """Return the recipe in the model's config."""
        return pretrained.stored_recipe(_pretrained(model).config)

    def checkpoint_dtypes(self, model: nn.Module) -> list[str]:
        """Return those that a frozen model was saved with, else those of the model."""
        found = quantization_of(_pretrained(model).config)
        if found is None or found.frozen is None:
            return super().checkpoint_dtypes(model)
        return list(found.frozen["dtypes"])

    def has_saved_weights(self, model: nn.Module, layers: Iterable[str]) -> bool:
        """Compare them with the files in the folder."""
        return pretrained.has_saved_weights(_pretrained(model), layers)

    def restore(self, model: nn.Module) -> None:
        """Load the scales in the model's folder if the weights there are still those of the model."""
        pretrained.restore_quantizers(_pretrained(model))

    def check_lowering(self, model: nn.Module) -> None:
        """Check how a model that generates text does it: its `generate` and its generation config."""
        checked = _pretrained(model)
        if checked.can_generate():
            check_search(checked)
            generation_settings(checked)

    def check_call(self, context: PrepareContext) -> None:
        """Check the call of a model that generates no text; the units of others have calls of their own."""
        if not _pretrained(context.model).can_generate():
            super().check_call(context)

    def export_units(self, model: nn.Module) -> ExportUnits:
        """Export the decode steps of a model that generates text, or one forward call of any other."""
        checked = _pretrained(model)
        if not checked.can_generate():
            return super().export_units(model)
        units = seq2seq_units if checked.config.is_encoder_decoder else decoder_units
        with original_frequencies(checked), local_attention(model):
            return units.export_units(checked)

    def finish(self, model: nn.Module, recipe: Recipe) -> None:
        """Switch the model to quantized attention and record the recipe in its config, to be saved."""
        checked = _pretrained(model)
        checked.set_attn_implementation(attention.IMPLEMENTATION)
        attention.guard(checked)
        set_quantization(checked.config, TbtConfig(recipe))
        resize_quantized(checked)

    def finish_frozen(self, model: nn.Module, recipe: Recipe, description: dict[str, Any]) -> None:
        """Let `save_pretrained` write the packed tensors, and record in the config how to load them.

        Args:
            model, recipe, description: as for `Adapter.finish_frozen`.
        """
        checked = _pretrained(model)
        quantization = TbtConfig(recipe, frozen=description)
        set_quantization(checked.config, quantization)
        checked.hf_quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
        checked.is_quantized = True
        resize_quantized(checked)


def _layer_types(config: PreTrainedConfig) -> list[str]:
    """The kind of each layer, as far as a config tells it."""
    kinds = getattr(config, "layer_types", None)
    return [kind for kind in kinds if isinstance(kind, str)] if isinstance(kinds, list | tuple) else []


def _holds_experts(module: nn.Module) -> bool:
    return type(module).__name__.endswith(("Experts", "SparseMLP"))


def _with_parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and the configs of its parts, at any depth, before the parts of each."""
    yield config
    for key in config.sub_configs:
        if (part := getattr(config, key)) is not None:
            yield from _with_parts(part)


def _pretrained(model: nn.Module) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    return model
