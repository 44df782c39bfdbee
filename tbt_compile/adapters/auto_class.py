"""The Auto class of transformers that loads a model which generates text."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES


def generator_class(config: PreTrainedConfig) -> Any:
    """The class for a config: with an encoder of text, of speech, or without an encoder.

    >>> from transformers import BartConfig, WhisperConfig
    >>> generator_class(BartConfig()).__name__, generator_class(WhisperConfig()).__name__
    ('AutoModelForSeq2SeqLM', 'AutoModelForSpeechSeq2Seq')
    """
    if config.model_type in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        return AutoModelForSpeechSeq2Seq
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
