"""Text for decoder-only models: which tokens are learned, and that no text of a block sees another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import gpt2, llama, opt
from transformers import PreTrainedTokenizerBase

import tbt_compile
from tbt_compile.data.batches import TextLengths
from tbt_compile.data.decoder_text import PromptCorpus, TextCorpus
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.data.text_pairs import TextPair
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.errors import DataError
from tbt_compile.training import TrainingError
from tbt_compile.training.tasks import DecoderTask

WORDS = "one two three four five six seven eight sum : user answer"
CHAT = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] }}"
    "{{ '</s>' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerBase:
    return train_word_tokenizer([WORDS, "assistant"])


def corpus(template: str | None, *pairs: TextPair, **lengths: int) -> PromptCorpus:
    return PromptCorpus(pairs, tokenizer(), TextLengths(**{"source": 3, "target": 3, **lengths}), template)


def words(ids: Any) -> str:
    return tokenizer().decode(ids)


def test_the_answer_is_learned_and_the_prompt_is_not() -> None:
    found = corpus("sum {source} :", TextPair("one two", "three"), TextPair("four", "five six"))
    dataset = found.dataset()
    row = dataset[0]
    assert words(row["input_ids"]) == "sum one two : three </s>"
    assert row["labels"] == [-100] * 4 + row["input_ids"][4:]
    batch = found.collator()([row, {"input_ids": [7], "labels": [7]}])
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 0, 0, 0, 0, 0]]
    assert batch["labels"][1].tolist() == [7, *[-100] * 5]
    # Each label is predicted one position earlier.
    assert DecoderTask().scored(batch).tolist() == [[False] * 3 + [True, True, False], [False] * 6]


def test_sources_are_cut_inside_the_template_and_targets_keep_their_end() -> None:
    pair = TextPair("One  two three four five", "six seven eight one two")
    row = corpus("sum {source} :", pair).dataset()[0]
    assert words(row["input_ids"]) == "sum one two three : six seven </s>"
    assert corpus("sum {source} :", pair).record()["template"] == "sum {source} :"


def test_the_chat_template_of_the_tokenizer_is_the_default() -> None:
    found = corpus(None, TextPair("one two", "three"))
    with pytest.raises(DataError, match=r"no chat template: give the template.*\{source\} in it"):
        found.dataset()
    found.tokenizer.chat_template = CHAT
    row = found.dataset()[0]
    assert words(row["input_ids"]) == "user one two assistant three </s>"
    assert [label != -100 for label in row["labels"]] == [False] * 4 + [True, True]
    found.tokenizer.chat_template = (
        "{{ messages | length }}{% if add_generation_prompt %}assistant{% endif %}"
    )
    with pytest.raises(DataError, match="an answer that does not go on from its prompt"):
        found.dataset()


@pytest.mark.parametrize("text", ["no place", "{source} and {source}"])
def test_a_template_needs_one_place_for_the_source(text: str) -> None:
    with pytest.raises(DataError, match=r"expected a prompt with \{source\} in it once"):
        PromptTemplate(text)


def test_blocks_hold_every_token_once_and_positions_start_with_each_text() -> None:
    texts = ["one two three", "four", "five six seven eight one two three four"]
    found = TextCorpus(texts, tokenizer(), block=6)
    dataset = found.dataset()
    assert len(found) == len(dataset) == 3
    stream = [token for row in dataset.rows for token in row["input_ids"]]
    whole = [token for text in texts for token in tokenizer()(text)["input_ids"]]
    assert stream == whole + [1] * (18 - len(whole))
    for row in dataset.rows:
        assert len(row["input_ids"]) == len(row["labels"]) == 6
        for token, position, label in zip(row["input_ids"], row["position_ids"], row["labels"], strict=True):
            assert label == (-100 if position == 0 or token == 1 else token)
    assert [row["position_ids"] for row in dataset.rows] == [
        [0, 1, 2, 3, 0, 1],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 0, 0, 0],
    ]


def quantized_llama() -> Any:
    """A prepared Llama with scales."""
    model = tbt_compile.prepare(llama(), "2-2-2")
    with torch.no_grad():
        model.train()(torch.arange(3, 60)[None])
    return model.eval()


@pytest.mark.parametrize("family", [llama, gpt2, quantized_llama])
def test_a_text_in_a_block_is_read_as_if_it_were_alone(family: Any) -> None:
    model = family()
    found = TextCorpus(["one two three", "four five", "six seven eight"], tokenizer(), block=11)
    batch = found.collator()(found.dataset().rows)
    DecoderTask().check_batch(model, batch)
    with torch.no_grad():
        together = model(**DecoderTask().without_labels(batch, model)).logits[0]
        assert torch.equal(model(**DecoderTask().with_labels(batch)).logits[0], together)
        alone = [model(torch.tensor([tokenizer()(text)["input_ids"]])).logits[0] for text in found.texts]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_model_that_would_read_a_block_as_one_text_is_refused() -> None:
    found = TextCorpus(["one two three", "four five"], tokenizer(), block=7)
    batch = found.collator()(found.dataset().rows)
    with pytest.raises(TrainingError, match="OPTForCausalLM reads the texts of a packed block as one"):
        DecoderTask().check_batch(opt(), batch)


def test_pairs_of_a_block_are_those_of_one_text() -> None:
    found = TextCorpus(["one", "four five"], tokenizer(), block=6)
    batch = found.collator()(found.dataset().rows)
    stack = DecoderTask().stacks(object(), batch)["decoder"]
    # one </s> four five </s> <pad>: the ends of texts and padding predict nothing.
    assert stack.queries.tolist() == [[True, False, True, True, False, False]]
    assert stack.visible[0].nonzero().tolist() == [[0, 0], [2, 2], [3, 2], [3, 3]]
