"""Scores against values worked out by hand, and the trivial baselines."""

from __future__ import annotations

import pytest

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.errors import DataError
from tbt_compile.evaluation import (
    bleu,
    constant_baseline,
    lead_baseline,
    lead_sentence,
    rouge,
    token_agreement,
)


def test_rouge_by_hand() -> None:
    # 3 of 4 words shared, 1 of 3 pairs, longest common subsequence "the cat mat"; "cats" is stemmed to "cat".
    scores = rouge(["the cats on mat"], ["the cat the mat"])
    assert scores.rouge1 == pytest.approx(75.0)
    assert scores.rouge2 == pytest.approx(100 / 3)
    assert scores.rougeL == pytest.approx(75.0)
    assert scores.rougeLsum == scores.rougeL  # there is one sentence
    mean = rouge(["the cats on mat", "x"], ["the cat the mat", "y"])
    assert mean.rouge1 == pytest.approx(37.5)


def test_rouge_lsum_takes_sentences_one_by_one() -> None:
    # The sentences stand in another order: whole texts share one of them as a subsequence, sentences both.
    scores = rouge(["A dog runs. Two men sit."], ["Two men sit. A dog runs."])
    assert scores.rougeL == pytest.approx(50.0)
    assert scores.rougeLsum == pytest.approx(100.0)


def test_bleu_of_a_copy_is_100_and_the_signature_names_the_version() -> None:
    same = ["ein hund läuft über das gras", "zwei männer stehen dort"]
    score = bleu(same, same)
    assert score.score == pytest.approx(100.0)
    assert "tok:13a" in score.signature
    assert "version:" in score.signature
    assert bleu(["etwas ganz anderes als gedacht"] * 2, same).score < 5


@pytest.mark.parametrize("metric", [rouge, bleu, token_agreement])
def test_lists_that_do_not_match_are_refused(metric: object) -> None:
    with pytest.raises(DataError, match="2 .*1"):
        metric(["a", "b"], ["a"])  # type: ignore[operator]
    with pytest.raises(DataError, match="at least one"):
        metric([], [])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        ("One thing. Another thing.", "One thing."),
        ("It rose 3.5 percent on Monday. Why?", "It rose 3.5 percent on Monday."),
        ("No end", "No end"),
    ],
)
def test_lead_sentence(text: str, lead: str) -> None:
    assert lead_sentence(text) == lead


def test_lead_baseline_is_100_where_the_first_sentence_is_the_summary() -> None:
    assert lead_baseline([TextPair("A dog runs. It is brown.", "a dog runs")]).rouge1 == 100.0


def test_constant_baseline_finds_what_the_targets_share() -> None:
    train = [TextPair("x", f"police hold number{index} for fraud") for index in range(50)]
    text, scores = constant_baseline(train, [TextPair("x", "police hold someone for fraud")])
    assert {"police", "hold", "for", "fraud"} <= set(text.split())
    assert scores.rouge1 >= 80
