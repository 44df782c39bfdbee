"""Examples that a model cannot read are refused before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from models import bart, llama, t5
from training.kinds import TEMPLATE, small_llama
from training.small import LENGTHS, PAIRS, tokenizer
from transformers import RobertaConfig, RobertaForSequenceClassification, Seq2SeqTrainingArguments

from tbt_compile.data.batches import Corpus
from tbt_compile.data.decoder_text import PromptCorpus, TextCorpus
from tbt_compile.data.examples import RowDataset
from tbt_compile.data.limits import check_rows, positions_of
from tbt_compile.errors import DataError
from tbt_compile.evaluation import DecodeSettings, evaluate_model
from tbt_compile.evaluation.perplexity import perplexity
from tbt_compile.training.label_trainer import LabelTrainer

WORDS = "one two three four five six seven eight nine ten"


def short(positions: int = 6) -> Any:
    model = small_llama()
    model.config.max_position_embeddings = positions
    return model


def roberta(positions: int) -> Any:
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=positions, pad_token_id=1, num_labels=3,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: llama(1, max_position_embeddings=48), 48),
        (lambda: bart(1, max_position_embeddings=40), 40),
        (lambda: t5(1), None),
        (lambda: roberta(34), 32),
    ],
)
def test_positions(model: Callable[[], Any], expected: int | None) -> None:
    assert positions_of(model()) == expected


def test_a_row_may_fill_every_position_and_no_more() -> None:
    model = roberta(12)
    for length in (10, 11):
        rows = RowDataset([{"input_ids": [5] * length, "labels": 1}], [length])
        if length == 10:
            check_rows(model, rows)
            model(torch.tensor([[5] * length]))
        else:
            with pytest.raises(DataError, match="input_ids of example 0 are 11 tokens.* has 10 positions"):
                check_rows(model, rows)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (lambda: PromptCorpus(PAIRS, tokenizer(), LENGTHS, TEMPLATE.text), "has 6 positions"),
        (lambda: TextCorpus([WORDS] * 3, tokenizer(), 8), "has 6 positions"),
        (lambda: PromptCorpus([], tokenizer(), LENGTHS, TEMPLATE.text), "there are no examples"),
    ],
)
def test_a_trainer_refuses_what_the_model_cannot_read(
    corpus: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    examples = corpus()
    arguments = Seq2SeqTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(DataError, match=message):
        LabelTrainer(short(), arguments, train_dataset=examples.dataset(), data_collator=examples.collator())


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    model = t5(1, vocab_size=len(tokenizer()) // 2)
    examples = Corpus(PAIRS, tokenizer(), LENGTHS)
    arguments = Seq2SeqTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(DataError, match="vocabulary has .*resize_token_embeddings"):
        LabelTrainer(model, arguments, train_dataset=examples.dataset(), data_collator=examples.collator())
    with pytest.raises(DataError, match="vocabulary has"):
        evaluate_model(model, tokenizer(), PAIRS[:2], DecodeSettings(40, 4))


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "nothing is predicted"), ([""], "nothing is predicted"), (WORDS, "expected a list of texts")],
)
def test_texts_without_predictions(texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        perplexity(small_llama(), tokenizer(), texts, 8)
    with pytest.raises(DataError, match="expected at least 2"):
        TextCorpus([WORDS], tokenizer(), 1)


def test_scores_refuse_more_tokens_than_positions() -> None:
    pairs, template = PAIRS[:2], TEMPLATE
    with pytest.raises(DataError, match=r"input_ids of example \d are 8 tokens, and the model has 6"):
        perplexity(short(), tokenizer(), [WORDS], 8)
    for model, decode in (
        (short(24), DecodeSettings(12, 64, template=template)),
        (bart(1, max_position_embeddings=40, vocab_size=len(tokenizer())), DecodeSettings(12, 64)),
    ):
        with pytest.raises(DataError, match="64 new tokens make texts of up to"):
            evaluate_model(model, tokenizer(), pairs, decode)
    with pytest.raises(DataError, match="input_ids of example 0 are"):
        evaluate_model(short(), tokenizer(), pairs, DecodeSettings(30, 2, template=template))


def test_a_list_of_rows_is_looked_at_and_other_data_is_not(tmp_path: Path) -> None:
    arguments = Seq2SeqTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    model = small_llama()
    rows = [{"input_ids": [5, model.config.vocab_size], "labels": [5, 6]}]
    with pytest.raises(DataError, match="vocabulary has"):
        LabelTrainer(model, arguments, train_dataset=rows)
    LabelTrainer(model, arguments, train_dataset=[(1, 2)])
    LabelTrainer(model, arguments, train_dataset=datasets.Dataset.from_list(rows))
