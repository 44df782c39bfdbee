"""What `lower` refuses before it compiles, and the limits that it reads off the exported units."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import trained
from models import POSITIONS, VOCABULARY, bart, marian, prepared
from transformers import BartConfig, BartForCausalLM, BartForConditionalGeneration

import tbt_compile
from tbt_compile.adapters import adapter_for
from tbt_compile.adapters.decode_settings import decode_settings
from tbt_compile.adapters.huggingface import HuggingFaceAdapter
from tbt_compile.errors import GenerationError, LoweringError
from tbt_compile.runtime.input_checks import Limits, TokenLimits, checked_batch
from tbt_compile.size_bounds import SizeBound


def limits_of(model: Any) -> Limits:
    """The limits in the manifest of a model, which is exported but not compiled."""
    frozen = tbt_compile.freeze(trained(model, "2-2-2")).module
    return Limits.recorded(adapter_for(frozen).export_units(frozen).settings)


@pytest.mark.parametrize(
    "fields",
    [
        {"guidance_scale": 1.5},
        {"stop_strings": ["."]},
        {"num_beam": 4},
        {"task_to_id": {"transcribe": 5}},
        {"num_beams": 2.5},
        {"bad_words_ids": 7},
        {"pad_token_id": -1},
        {"pad_token_id": VOCABULARY},
        {"bos_token_id": VOCABULARY + 7},
        {"decoder_start_token_id": [2, VOCABULARY]},
        {"num_return_sequences": 3, "do_sample": True},
    ],
    ids=str,
)
def test_a_generation_config_that_cannot_be_kept(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HuggingFaceAdapter, "export_units", lambda *_: pytest.fail("exported all the same"))
    model = prepared("bart")
    for name, value in fields.items():
        setattr(model.generation_config, name, value)
    with pytest.raises(
        LoweringError, match=f"generation_config of .* cannot be kept: .*{next(iter(fields))}"
    ):
        tbt_compile.lower(model)


def test_a_generate_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HuggingFaceAdapter, "export_units", lambda *_: pytest.fail("exported all the same"))

    class Repeats(BartForConditionalGeneration):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            return torch.cat([super().generate(*args, **kwargs)] * 2)

    model = Repeats(bart(layers=1).config).eval()
    sentence = "Repeats replaces generate of transformers' GenerationMixin: a compiled model would follow"
    assert tbt_compile.plan(model).refused[0].startswith(sentence)
    with pytest.raises(LoweringError, match=sentence):
        tbt_compile.lower(trained(model, "2-2-2"))
    model = prepared("bart")
    monkeypatch.setattr(model, "_beam_search", lambda *_: None)
    with pytest.raises(LoweringError, match="replaces _beam_search"):
        tbt_compile.lower(model)


def test_sampling_is_recorded_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = bart(layers=1)
    config = model.generation_config
    config.do_sample, config.temperature, config.top_k, config.num_beams = True, np.float64(0.6), 20, 2
    with caplog.at_level(logging.WARNING):
        settings = decode_settings(model, 1, {})
    assert settings["sampling"] == {"do_sample": True, "temperature": 0.6, "top_k": 20}
    assert settings["generation"]["num_beams"] == 2
    assert settings["generation"].keys().isdisjoint(settings["sampling"])
    assert "asks for sampling (do_sample=True, temperature=0.6, top_k=20)" in caplog.text
    caplog.clear()
    config.do_sample = None
    assert decode_settings(model, 1, {})["sampling"] == {"temperature": 0.6, "top_k": 20}
    assert caplog.text == ""
    config.temperature = "warm"
    with pytest.raises(LoweringError, match="temperature='warm': expected a number"):
        decode_settings(model, 1, {})


def test_padding_counts_where_the_model_counts_it() -> None:
    config = bart().config.to_dict() | {"is_decoder": True, "is_encoder_decoder": False, "decoder_layers": 1}
    torch.manual_seed(0)
    limits = limits_of(BartForCausalLM(BartConfig(**config)).eval())
    assert (limits.source.length, limits.source.positions) == (POSITIONS, None)
    ids = np.full((2, POSITIONS + 1), 5)
    mask = np.ones_like(ids)
    mask[:, :10] = 0
    with pytest.raises(
        GenerationError, match=f"has {POSITIONS + 1} tokens with padding, and the model has {POSITIONS} pos"
    ):
        checked_batch(ids, mask, limits.source, "left")
    checked_batch(ids[:, 1:], mask[:, 1:], limits.source, "left")
    with pytest.raises(GenerationError, match="65 decoder tokens with padding are more than the model's 64"):
        limits.check_decoder(ids[:, :1], POSITIONS + 1, 20)


def test_outputs_that_would_come_to_an_excluded_length_are_refused_before_they_begin() -> None:
    words = TokenLimits(VOCABULARY)
    limits = Limits(1, words, words, bounds={"step": [SizeBound("tokens", 0, False, "a branch", 8)]})
    limits.check_output(3, 3, 8)  # the eighth token is not read
    with pytest.raises(GenerationError, match="a sequence of 8 tokens: expected no multiple of 8: a branch"):
        limits.check_output(3, 3, 9)


def test_each_side_has_its_own_vocabulary() -> None:
    limits = limits_of(marian(layers=1, decoder_vocab_size=120, share_encoder_decoder_embeddings=False))
    assert (limits.source.vocabulary, limits.decoder.vocabulary) == (VOCABULARY, 120)
    limits.check_decoder(np.array([[119]]), 1, 1)
    with pytest.raises(GenerationError, match="decoder token 120: expected ids from 0 to 119"):
        limits.check_decoder(np.array([[120]]), 1, 1)
    with pytest.raises(GenerationError, match="input_ids holds 3 to 96: expected ids from 0 to 95"):
        checked_batch([[3, 96]], None, limits.source)
