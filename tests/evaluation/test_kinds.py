"""Metrics of models that are no encoder-decoders of text."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import bart, opt
from training.kinds import TEMPLATE, classifier, labelled, small_llama, texts
from training.small import PAIRS, tokenizer

import tbt_compile
from tbt_compile.data.labeled_texts import LabeledText
from tbt_compile.errors import DataError, GenerationError
from tbt_compile.evaluation import DecodeSettings, generate_texts
from tbt_compile.evaluation.classification import accuracy, class_logits
from tbt_compile.evaluation.perplexity import perplexity
from tbt_compile.evaluation.scores import word_error_rate

SOURCES = [pair.source for pair in PAIRS[:7]]
GREEDY = DecodeSettings(max_source_length=40, max_new_tokens=6, template=TEMPLATE)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_prompts_are_padded_on_the_left_and_cut_off(num_beams: int) -> None:
    network, search = small_llama(), replace(GREEDY, num_beams=num_beams)
    together = generate_texts(network, tokenizer(), SOURCES, replace(search, batch_size=3)).tokens
    for source, row in zip(SOURCES, together, strict=True):
        prompt = TEMPLATE.prompts(tokenizer(), [source], 40)
        written = network.generate(
            torch.tensor(prompt), num_beams=num_beams, max_new_tokens=6, do_sample=False
        )
        expected = written[0, len(prompt[0]) :].tolist()
        assert row == expected[: len(row)]
        assert len(row) == 6 or row[-1] == 2


def test_a_template_is_for_models_without_an_encoder() -> None:
    with pytest.raises(GenerationError, match="decoder-only and continues a prompt: give the template"):
        generate_texts(small_llama(), tokenizer(), SOURCES, replace(GREEDY, template=None))
    with pytest.raises(GenerationError, match="reads its source with an encoder: leave the template out"):
        generate_texts(bart(), tokenizer(), SOURCES, GREEDY)


def test_perplexity_by_hand() -> None:
    network, chosen = small_llama(), texts().texts[:3]
    found = perplexity(network, tokenizer(), chosen, block=256)
    losses = []
    with torch.no_grad():
        for text in chosen:
            ids = torch.tensor(tokenizer()(text)["input_ids"])
            logits = network(ids[None]).logits[0, :-1]
            losses += F.cross_entropy(logits, ids[1:], reduction="none").tolist()
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert (found.tokens, found.sentences) == (len(losses), 3)


@pytest.mark.parametrize("block", [5, 256])
def test_perplexity_reads_texts_apart_whatever_the_model_makes_of_positions(block: int) -> None:
    """OPT takes no position ids: texts of one row would be one text to it."""
    network, chosen = opt(1, vocab_size=len(tokenizer()), init_std=0.5), texts().texts[:4]
    found = perplexity(network, tokenizer(), chosen, block)
    losses = []
    with torch.no_grad():
        for text in chosen:
            ids = torch.tensor(tokenizer()(text)["input_ids"])
            for start in range(0, len(ids) - 1, block - 1):
                piece = ids[start : start + block]
                logits = network(piece[None]).logits[0, :-1]
                losses += F.cross_entropy(logits, piece[1:], reduction="none").tolist()
    assert found.tokens == len(losses) == sum(len(tokenizer()(text)["input_ids"]) - 1 for text in chosen)
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_perplexity_needs_logits_of_whole_texts() -> None:
    with pytest.raises(GenerationError, match="score the model that it was compiled from"):
        perplexity(object(), tokenizer(), ["one"], 8)


def test_accuracy_does_not_depend_on_batches() -> None:
    network, some = classifier(), labelled()[:9]
    sources = [text.text for text in some]
    logits = class_logits(network, tokenizer(), sources, 40, batch_size=4)
    alone = np.concatenate([class_logits(network, tokenizer(), [source], 40) for source in sources])
    np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-4)
    prepared = tbt_compile.prepare(classifier(), "2-2-8")
    with torch.no_grad():
        prepared(torch.tensor([[4, 5, 6]]))
    assert class_logits(tbt_compile.freeze(prepared), tokenizer(), sources, 40).shape == (9, 3)
    guessed = [LabeledText(text.text, int(row.argmax())) for text, row in zip(some, logits, strict=True)]
    assert accuracy(logits, guessed).accuracy == 100.0
    wrong = [*guessed[:6], *(LabeledText(text.text, (text.label + 1) % 3) for text in guessed[6:])]
    assert accuracy(logits, wrong).accuracy == pytest.approx(200 / 3)
    with pytest.raises(DataError, match="1 of 9 texts have no class"):
        accuracy(logits, [*guessed[:8], LabeledText("x", None)])


def test_word_errors_by_hand() -> None:
    assert word_error_rate(["a b c"], ["a b c"]) == 0.0
    assert word_error_rate(["", "x y"], ["a b", "x z y w"]) == pytest.approx(100 * 4 / 6)
    assert word_error_rate(["a a a a"], ["a b"]) == 150.0
    with pytest.raises(DataError, match="no words"):
        word_error_rate(["a"], [""])
