"""Decode settings: what the runtime needs to know about a text-generation model besides its functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import GenerationMixin, PreTrainedModel

from tbt_compile.adapters.speech import follows_whisper, speech_settings, take_fields
from tbt_compile.adapters.unit_limits import table_rows
from tbt_compile.errors import GenerationError, LoweringError
from tbt_compile.runtime.companions import GENERATION
from tbt_compile.runtime.generation import GenerationSettings
from tbt_compile.runtime.generation.fields import OTHER_SAMPLING, SAMPLING
from tbt_compile.runtime.generation.validation import number, plain

log = logging.getLogger(__name__)


def generation_settings(model: PreTrainedModel) -> tuple[GenerationSettings, dict[str, Any]]:
    """Read a model's generation config.

    Returns:
        The settings without those of sampling, and the fields of sampling, JSON-ready.

    Raises:
        LoweringError: the config has a field that is unknown, has an invalid value, or asks for a search that
            compiled models do not have.
    """
    name = type(model).__name__
    if model.generation_config is None:
        raise LoweringError(f"{name} has no generation_config: set model.generation_config before lowering")
    fields = {
        field: value
        for field, value in vars(model.generation_config).items()
        if value is not None and not field.startswith("_")
    }
    if follows_whisper(model):
        take_fields(model, fields)
    try:
        sampling = _sampling(fields)
        settings = GenerationSettings.from_fields(fields)
        _check_vocabulary(model, settings)
        return settings, sampling
    except GenerationError as error:
        raise LoweringError(
            f"the generation_config of {name} cannot be kept: {error}. Change the field, or set it to None, "
            "before lowering"
        ) from error


def generation_file(model: PreTrainedModel) -> dict[str, bytes]:
    """The generation config of a model as the file that transformers reads, by its name."""
    config: Any = model.generation_config
    return {GENERATION: config.to_json_string().encode()}


def check_search(model: PreTrainedModel) -> None:
    """Refuse a model that changes how transformers generates.

    Raises:
        LoweringError: its class, or the model itself, replaces a part of `GenerationMixin`.
    """
    is_known = follows_whisper(model) or type(model).__name__.removeprefix("Quantized") in _SAME
    for part in _SEARCH:
        own = getattr(getattr(model, part), "__func__", None)
        if part == "generate" and is_known:
            continue
        if own is not getattr(GenerationMixin, part):
            raise LoweringError(
                f"{type(model).__name__} replaces {part} of transformers' GenerationMixin: a compiled model "
                "would follow the rules of GenerationMixin and could write other tokens; remove the "
                "replacement, or prepare the part of the model that computes logits as a plain module"
            )


_SAME = (
    "GraniteSpeechForConditionalGeneration",
    "GraniteSpeechPlusForConditionalGeneration",
    "JanusForConditionalGeneration",
    "SeamlessM4TForSpeechToText",
    "SeamlessM4TForTextToText",
    "SeamlessM4Tv2ForSpeechToText",
    "SeamlessM4Tv2ForTextToText",
)
"""Classes whose own `generate` is GenerationMixin's for token ids alone, or for features alone.

It adds adapters for audio, writes images if asked to, or turns the name of a language into the first decoder
token: pass that token as `decoder_input_ids`.
"""
_SEARCH = ("generate", "_sample", "_beam_search", "_get_logits_processor", "_get_stopping_criteria")
"""The methods that decide which tokens are written."""


def _check_vocabulary(model: PreTrainedModel, settings: GenerationSettings) -> None:
    """Check that the decoder can read the tokens that the search itself feeds it.

    Raises:
        GenerationError: one is beyond the vocabulary of the decoder.
    """
    decoder: Any = model.get_decoder() if model.config.is_encoder_decoder else model
    try:
        size = table_rows(decoder)
    except AttributeError:  # no table: the exported step has the limits
        return
    start = settings.decoder_start_token_id
    fed = {
        "pad_token_id": settings.pad_token_id,
        "bos_token_id": settings.bos_token_id,
        "decoder_start_token_id": max(start) if isinstance(start, tuple) else start,
    }
    for name, token in fed.items():
        if token is not None and token >= size:
            raise GenerationError(f"{name}={token} is outside the decoder's vocabulary of {size} tokens")


def _sampling(fields: dict[str, Any]) -> dict[str, Any]:
    """Remove the fields of sampling from `fields`; return those that are set."""
    found = {
        name: plain(fields.pop(name)) for name in ("do_sample", *SAMPLING, *OTHER_SAMPLING) if name in fields
    }
    for name in found.keys() - {"do_sample"}:
        number(name, found[name])
    if not found.pop("do_sample", False):
        return found
    return {"do_sample": True, **found}


def decode_settings(model: PreTrainedModel, layers: int, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decode settings of a model as JSON-ready values.

    What a config says of sampling is recorded under "sampling", and reported: `CompiledModel.generate`
    samples so, but only if it is asked to.

    Args:
        model: a frozen model that generates text.
        layers: number of decoder layers.
        limits: of the token ids and lengths on each side; see `unit_limits`.

    Returns:
        A part of the manifest; "max_positions" is None for relative positions.

    Raises:
        LoweringError: as for `generation_settings`.
    """
    settings, sampling = generation_settings(model)
    if "do_sample" in sampling:
        log.warning(
            "the generation_config of %s asks for sampling (%s): CompiledModel.generate samples so with "
            "do_sample=True, and is greedy or beam search without",
            type(model).__name__,
            ", ".join(f"{name}={value}" for name, value in sampling.items()),
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None:  # caps the default length, as in transformers
        settings = settings.replace(max_position_embeddings=int(positions))
    return {
        "generation": settings.to_dict(),
        "sampling": sampling,
        "layers": layers,
        **limits,
        **({"speech": speech_settings(model)} if follows_whisper(model) else {}),
    }
