"""Texts from eager models and from anything with the same `generate` on arrays."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from training.small import PAIRS, model, tokenizer
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.data.text_pairs import TextPair
from tbt_compile.errors import GenerationError
from tbt_compile.evaluation import DecodeSettings, evaluate_model, generate_texts, milliseconds_per_sentence

SOURCES = [pair.source for pair in PAIRS[:7]]
GREEDY = DecodeSettings(max_source_length=40, max_new_tokens=6)


class ArrayModel:
    """Stands for a compiled model: lists of tokens in, integer arrays out."""

    def __init__(self, inner: PreTrainedModel) -> None:
        self.inner = inner
        self.asked: dict[str, Any] = {}

    def generate_many(
        self, rows: list[list[int]], num_beams: int, max_new_tokens: int, **asked: Any
    ) -> list[np.ndarray]:
        self.asked = asked
        options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        return [self.inner.generate(torch.tensor([row]), **options)[0].numpy() for row in rows]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_order_and_batches_do_not_matter(num_beams: int) -> None:
    network, words, search = model().eval(), tokenizer(), replace(GREEDY, num_beams=num_beams)
    alone = [generate_texts(network, words, [source], search).tokens[0] for source in SOURCES]
    together = generate_texts(network, words, SOURCES, replace(search, batch_size=3))
    assert together.tokens == alone
    assert together.texts == [words.decode(row, skip_special_tokens=True).strip() for row in alone]
    assert together.mean_length == pytest.approx(sum(together.lengths) / len(SOURCES))
    assert all(length <= 6 for length in together.lengths)
    assert not any(1 in row for row in together.tokens)  # padding was taken away


def test_array_models_and_frozen_models_are_asked_in_the_same_way() -> None:
    network, words = model().eval(), tokenizer()
    expected = generate_texts(network, words, SOURCES, GREEDY).tokens
    array_model = ArrayModel(network)
    options = {"batch_size": 5, "num_workers": 3, "num_threads": 2}
    assert generate_texts(array_model, words, SOURCES, replace(GREEDY, **options)).tokens == expected
    assert {name: array_model.asked[name] for name in options} == options
    with pytest.raises(GenerationError, match="num_threads=2 with a PyTorch model"):
        generate_texts(network, words, SOURCES, replace(GREEDY, num_threads=2))
    with pytest.raises(GenerationError, match="num_workers=2"):
        generate_texts(network, words, SOURCES, replace(GREEDY, num_workers=2))
    prepared = tbt_compile.prepare(copy.deepcopy(network), "2-2-2")
    eager = generate_texts(prepared, words, SOURCES, GREEDY).tokens
    assert generate_texts(tbt_compile.freeze(prepared), words, SOURCES, GREEDY).tokens == eager


def test_training_mode_is_left_as_it_was_and_progress_is_told() -> None:
    network, shares = model().train(), []
    search = replace(GREEDY, batch_size=4)
    generate_texts(network, tokenizer(), SOURCES, search, progress=lambda _, share: shares.append(share))
    assert network.training
    assert shares == [0.0, pytest.approx(4 / 7), 1.0]


def test_an_evaluation_has_every_figure() -> None:
    pairs = [TextPair(pair.source, pair.target) for pair in PAIRS[:5]]
    evaluation, generated = evaluate_model(model().eval(), tokenizer(), pairs, GREEDY)
    assert len(generated.texts) == evaluation.sentences == 5
    assert 0 <= evaluation.rouge2 <= evaluation.rouge1 <= 100
    assert evaluation.to_dict()["bleu_signature"].startswith("nrefs:1")
    assert milliseconds_per_sentence(model().eval(), tokenizer(), SOURCES[:2], GREEDY) > 0
