"""Pairs as batches: cut to the given lengths, padded on the right, padding marked."""

from __future__ import annotations

import torch

from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextPair
from tbt_compile.data.tokenization import train_word_tokenizer


def test_batches_are_padded_on_the_right_and_padding_is_marked() -> None:
    pairs = [TextPair("one two three", "uno dos"), TextPair("one", "uno dos tres quattro")]
    tokenizer = train_word_tokenizer(text for pair in pairs for text in (pair.source, pair.target))
    corpus = Corpus(pairs, tokenizer, TextLengths(source=3, target=4))
    dataset = corpus.dataset()
    batch = corpus.collator()([dataset[0], dataset[1]])
    end = tokenizer.eos_token_id
    assert batch["input_ids"][0, -1] == end  # cut to three tokens, the end among them
    assert batch["input_ids"].shape == (2, 3)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"][0].tolist()[2:] == [end, -100]
    assert batch["labels"].dtype == torch.int64


def test_a_corpus_has_as_many_examples_as_pairs_and_needs_the_longer_of_both_lengths() -> None:
    corpus = Corpus([TextPair("one", "uno")], train_word_tokenizer(["one", "uno"]), TextLengths(3, 9))
    assert len(corpus) == len(corpus.dataset()) == 1
    assert corpus.lengths.longest == 9
    assert corpus.lengths.to_dict() == {"max_source_length": 3, "max_target_length": 9}
