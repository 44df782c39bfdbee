"""The two tokenizers: special tokens, round trips, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tbt_compile.data.tokenization import load_tokenizer, train_bpe_tokenizer, train_word_tokenizer
from tbt_compile.errors import DataError

TEXTS = ["Shares in Norvik Steel rose 12 percent.", "norvik steel stock gains 12 percent", "Ein Hund läuft."]


def bpe() -> PreTrainedTokenizerBase:
    return train_bpe_tokenizer(TEXTS, vocab_size=300)


@pytest.mark.parametrize("make", [lambda: train_word_tokenizer(TEXTS), bpe])
def test_special_tokens_are_where_bart_has_them(make: object, tmp_path: Path) -> None:
    tokenizer = make()  # type: ignore[operator]
    ids = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert len(loaded) == len(tokenizer)
        for text in TEXTS:
            assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
            assert loaded(text)["input_ids"][-1] == 2
        assert loaded.pad_token_id == 1


def test_whole_words_are_lower_case_and_others_unknown() -> None:
    tokenizer = train_word_tokenizer(TEXTS)
    ids = tokenizer("NORVIK steel, shares zebra")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "norvik steel shares"
    assert ids.count(3) == 2  # the comma and the zebra were in no training text


@pytest.mark.parametrize("text", ["Ein Hund läuft.", "日本語 🙂\n\ttabs", " leading and trailing "])
def test_bpe_writes_any_text_and_reads_it_back(text: str) -> None:
    tokenizer = bpe()
    ids = tokenizer(text)["input_ids"]
    assert 3 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) <= 300


def test_in_lower_case_a_word_has_the_same_tokens_everywhere(tmp_path: Path) -> None:
    train_bpe_tokenizer([*TEXTS, "steel prices"], vocab_size=320, lower_case=True).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    first, later = tokenizer("STEEL rose")["input_ids"], tokenizer("norvik Steel")["input_ids"]
    word = tokenizer("steel")["input_ids"][:-1]
    assert first[: len(word)] == word == later[-1 - len(word) : -1]
    assert tokenizer.decode(first, skip_special_tokens=True) == "steel rose"


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokenizer size 100 is too small: byte-level BPE needs at least 260"):
        train_bpe_tokenizer(TEXTS, vocab_size=100)
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
