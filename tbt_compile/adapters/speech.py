"""Settings of a Whisper model, whose own `generate` the runtime follows; see `runtime.speech`."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from tbt_compile.errors import LoweringError

KEPT = (
    "lang_to_id",
    "task_to_id",
    "no_timestamps_token_id",
    "max_initial_timestamp_index",
    "language",
    "task",
    "return_timestamps",
    "is_multilingual",
    "forced_decoder_ids",
)
"""Fields of Whisper's generation config that the runtime follows."""
_WITHOUT_EFFECT = ("alignment_heads", "median_filter_width", "prev_sot_token_id", "prompt_condition_type")
_NEUTRAL = {
    "condition_on_prev_tokens": (False,),
    "compression_ratio_threshold": (),
    "logprob_threshold": (),
    "no_speech_threshold": (),
    "return_token_timestamps": (False,),
    "force_unique_generate_call": (False,),
}


def follows_whisper(model: PreTrainedModel) -> bool:
    """Whether a model generates by Whisper's `generate`, unchanged."""
    return getattr(model.generate, "__func__", None) is WhisperGenerationMixin.generate


def take_fields(model: PreTrainedModel, fields: dict[str, Any]) -> None:
    """Remove Whisper's own fields from those of a generation config.

    Raises:
        LoweringError: one asks for what the runtime does not do.
    """
    for name, neutral in _NEUTRAL.items():
        value = fields.pop(name, None)
        if value is not None and value not in neutral:
            raise LoweringError(
                f"the generation_config of {type(model).__name__} has {name}={value!r}, which compiled "
                "models do not follow: set it to None before lowering"
            )
    for name in (*KEPT, *_WITHOUT_EFFECT):
        fields.pop(name, None)


def speech_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return the fields of `runtime.speech_settings.SpeechSettings`, JSON-ready."""
    config, encoder = model.config, model.get_encoder()
    stride = encoder.conv1.stride[0] * encoder.conv2.stride[0]
    given = {name: getattr(model.generation_config, name, None) for name in KEPT}
    forced = given.pop("forced_decoder_ids") or getattr(config, "forced_decoder_ids", None) or []
    kept = {name: value for name, value in given.items() if value is not None}
    return {
        **kept,
        "forced_decoder_ids": _in_order(model, forced),
        "languages": {
            name: code
            for name, code in TO_LANGUAGE_CODE.items()
            if f"<|{code}|>" in kept.get("lang_to_id", {})
        },
        "window": stride * config.max_source_positions,
        "stride": stride,
        "max_target_positions": config.max_target_positions,
    }


def _in_order(model: PreTrainedModel, forced: list[list[int | None]]) -> list[int | None]:
    """Forced tokens without their places, which have to be 1, 2, ..."""
    if [place for place, _ in forced] != list(range(1, len(forced) + 1)):
        raise LoweringError(
            f"forced_decoder_ids of {type(model).__name__} are at the places "
            f"{', '.join(str(place) for place, _ in forced)}: expected 1, 2 and so on"
        )
    return [token for _, token in forced]
