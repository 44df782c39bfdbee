"""Masks that transformers makes with vmap: T5Gemma 2, whose encoder has a window on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration
from transformers.models.t5gemma2 import modeling_t5gemma2

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.errors import LoweringError

VOCABULARY, WINDOW = 96, 4


def t5gemma2() -> Any:
    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = T5Gemma2Config(
        encoder={"text_config": text, "vision_config": {**vision, "image_size": 16, "patch_size": 8}},
        decoder=text,
        initializer_range=0.5,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = T5Gemma2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
    return model


def test_tokens_are_those_of_the_frozen_model() -> None:
    frozen = tbt_compile.freeze(tbt_compile.prepare(t5gemma2(), "2-2-8"))
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModel)
    generator = torch.Generator().manual_seed(1)
    for lengths in ((1,), (WINDOW,), (3 * WINDOW, WINDOW - 1, WINDOW + 1)):
        width = max(lengths)
        ids = torch.randint(3, VOCABULARY, (len(lengths), width), generator=generator)
        mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        for beams in (1, 3):
            settings = {"num_beams": beams, "max_new_tokens": 2 * WINDOW}
            expected = frozen.generate(input_ids=ids, attention_mask=mask, **settings, do_sample=False)
            found = compiled.generate(ids.numpy(), mask.numpy(), **settings)
            np.testing.assert_array_equal(found, expected.numpy())


def test_a_mask_function_that_does_more_than_compare_indices_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def function(*_: Any, **__: Any) -> Callable[..., Tensor]:
        """Mapped over indices, each is its own maximum; broadcast, there is one for all."""
        return lambda _batch, _head, query, key: (query == query.amax()) & (key >= 0)

    model = t5gemma2()
    monkeypatch.setattr(modeling_t5gemma2, "sliding_window_mask_function", function)
    frozen = tbt_compile.freeze(tbt_compile.prepare(model, "2-2-8"))
    with pytest.raises(LoweringError, match="captured of T5Gemma2ForConditionalGeneration does not compute"):
        tbt_compile.lower(frozen)
