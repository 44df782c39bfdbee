"""Models composed of others: an encoder of text or images with a decoder, a language model with towers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

import tbt_compile
from tbt_compile import CompiledModel, FrozenModel
from tbt_compile.errors import GenerationError, PlanError
from tbt_compile.modules import is_prepared

VOCABULARY, WIDTH, START, PAD, EOS = 96, 32, 1, 0, 2
SIZES = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {**SIZES, "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.5}


def _with_tokens(model: Any) -> Any:
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, EOS
    return model.eval()


def bert_to_bert() -> PreTrainedModel:
    torch.manual_seed(0)
    parts = BertConfig(**BERT), BertConfig(**BERT, is_decoder=True, add_cross_attention=True)
    return _with_tokens(EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*parts)))


def trocr() -> PreTrainedModel:
    """Images of 16 x 16 pixels; the encoder is 24 wide and the decoder 32, so that states are projected."""
    torch.manual_seed(0)
    encoder = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
        initializer_range=0.5,
    )
    decoder = TrOCRConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        cross_attention_hidden_size=24,
        init_std=0.5,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return _with_tokens(VisionEncoderDecoderModel(config))


def gemma3() -> PreTrainedModel:
    """A language model that also takes images, used with text only."""
    torch.manual_seed(0)
    text = {
        **SIZES,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
        "initializer_range": 0.5,
        "max_position_embeddings": 64,
    }
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    config.pad_token_id, config.eos_token_id = PAD, EOS
    return Gemma3ForConditionalGeneration(config).eval()


def lowered(model: PreTrainedModel) -> tuple[FrozenModel, CompiledModel]:
    frozen = tbt_compile.freeze(tbt_compile.prepare(model, "2-2-8"))
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModel)
    return frozen, compiled


def texts(left: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask = mask if left else mask.flip(1)
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (bert_to_bert, lambda: texts(left=False)),
        (trocr, lambda: {"pixel_values": torch.randn(3, 3, 16, 16)}),
        (gemma3, lambda: texts(left=True)),
    ],
)
def test_tokens_are_those_of_the_frozen_model(
    make: Callable[[], PreTrainedModel], inputs: Callable[[], dict[str, torch.Tensor]]
) -> None:
    torch.manual_seed(3)
    frozen, compiled = lowered(make())
    given = inputs()
    arrays = {name: value.numpy() for name, value in given.items()}
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 10}
        expected = frozen.generate(**given, **settings, do_sample=False)
        np.testing.assert_array_equal(compiled.generate(**arrays, **settings), expected.numpy())
    (name, value), *_ = arrays.items()
    if name == "pixel_values":
        assert compiled.encode(pixel_values=value).shape == (3, 5, 24)
        for call, message in (
            (lambda: compiled.generate(texts(left=False)["input_ids"]), "takes pixel_values alone"),
            (
                lambda: compiled.generate(pixel_values=value[:, :, 1:]),
                r"floats \[batch, 3, 16, 16\]",
            ),
            (lambda: compiled.generate(pixel_values=value.astype(int)), "expected floats"),
            (compiled.generate, "takes pixel_values alone"),
        ):
            with pytest.raises(GenerationError, match=message):
                call()


def test_the_tokens_of_a_model_of_text_and_images_are_quantized() -> None:
    """It replaces the tokens that stand for images before it looks them up; its tower stays as it is."""
    planned = tbt_compile.plan(gemma3(), "2-2-8")
    assert "model.language_model.embed_tokens" in {site.fqn for site in planned}
    assert not any("vision_tower" in site.fqn for site in planned)


def test_sources_of_excluded_lengths_are_padded() -> None:
    """Only the runtime's part: which lengths the export excludes is tested with its guards."""
    from tbt_compile.runtime.input_checks import Limits, TokenLimits
    from tbt_compile.runtime.source_input import SourceInput
    from tbt_compile.size_bounds import SizeBound

    bounds = {"encoder": [SizeBound("source", 0, False, "", 4), SizeBound("source", 9, False, "", last=14)]}
    limits = Limits(1, TokenLimits(VOCABULARY), TokenLimits(VOCABULARY), WIDTH, bounds)
    source = SourceInput("Model", None, limits)
    for length, padded in ((3, 3), (4, 5), (8, 15), (9, 15), (12, 15), (16, 17)):
        ids, mask = source.checked(np.full((2, length), 5), None, {})
        assert ids.shape == mask.shape == (2, padded)
        assert mask.sum() == 2 * length and not ids[:, length:].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)),
            "MambaForCausalLM is a state-space, recurrent or linear-attention model",
        ),
        (
            lambda: MixtralForCausalLM(
                MixtralConfig(**SIZES, intermediate_size=32, num_key_value_heads=1, num_local_experts=2)
            ),
            r"MixtralForCausalLM is a mixture of experts: model.layers.0.mlp.experts \(MixtralExperts\)",
        ),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    model = make()
    for function in (tbt_compile.plan, tbt_compile.prepare):
        with pytest.raises(PlanError, match=message):
            function(model)
    assert not is_prepared(model)
