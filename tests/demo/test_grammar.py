"""Properties of the demo's text that must hold over a whole data set."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.demo import words
from tbt_compile.demo.events import EVENTS, LEXICON
from tbt_compile.demo.grammar import NewsItem, is_reserved, make_items
from tbt_compile.demo.task import LENGTHS, build_items
from tbt_compile.demo.words import ASIDES
from tbt_compile.evaluation import constant_baseline, lead_baseline

Split = tuple[list[NewsItem], list[NewsItem]]


@pytest.fixture(scope="module")
def split() -> Split:
    return build_items(train=12_000, test=500, seed=1)


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def names_in(items: list[NewsItem]) -> set[str]:
    return set().union(*(item.names for item in items))


def pairs(items: list[NewsItem]) -> list[TextPair]:
    return [TextPair(item.source, item.target) for item in items]


def test_train_and_test_share_no_item_and_no_summary(split: Split) -> None:
    train, test = split
    assert {item.source for item in train}.isdisjoint(item.source for item in test)
    assert {item.target for item in train}.isdisjoint(item.target for item in test)
    assert len({item.source for item in train}) == len(train)
    assert len({item.source for item in test}) == len(test) == 500


def test_vocabulary_has_a_thousand_words_and_covers_the_test(split: Split) -> None:
    train, test = split
    known = {token for item in train for text in (item.source, item.target) for token in tokens(text)}
    assert sum(token.isalpha() for token in known) >= 1000
    assert known.issuperset(token for item in test for token in tokens(item.source + " " + item.target))


def test_some_test_names_are_never_in_training(split: Split) -> None:
    train, test = split
    unseen = names_in(test) - names_in(train)
    reserved = [name for name in unseen if is_reserved(name)]
    assert len(reserved) > 300
    assert not any(is_reserved(name) for name in names_in(train))
    about_unseen = [
        item for item in test if any(is_reserved(name) and name.lower() in item.target for name in item.names)
    ]
    assert 0.2 < len(about_unseen) / len(test) < 0.5


def test_items_are_two_to_four_sentences_of_plain_text(split: Split) -> None:
    for item in split[0][:3000] + split[1]:
        sentences = item.source.split(". ")
        assert 2 <= len(sentences) <= 4
        assert item.source.endswith(".")
        assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in sentences)
        assert not re.search(r"[\[\]{}|]|  | ,", item.source + item.target)
        assert len(tokens(item.source)) < LENGTHS.source
        assert len(tokens(item.target)) < LENGTHS.target


def test_facts_of_the_summary_stand_in_the_item(split: Split) -> None:
    for item in split[0]:
        source = tokens(item.source)
        numbers = [token for token in tokens(item.target) if token.isdigit()]
        assert all(number in source for number in numbers), item
        for name in item.names:
            assert name.lower() in item.source.lower(), (name, item)


def test_summaries_reword_the_item(split: Split) -> None:
    copied = [set(tokens(item.target)) <= set(tokens(item.source)) for item in split[0]]
    assert sum(copied) / len(copied) < 0.05


def test_copying_and_repeating_score_low(split: Split) -> None:
    train, test = split
    assert lead_baseline(pairs(test)).rouge1 < 60
    text, scores = constant_baseline(pairs(train), pairs(test))
    assert text
    assert scores.rouge1 < 35


def test_every_event_and_aside_is_used(split: Split) -> None:
    kinds = Counter(item.kind for item in split[0])
    assert set(kinds) == {event.kind for event in EVENTS}
    assert min(kinds.values()) > 0.5 * len(split[0]) / len(EVENTS)
    assert len(ASIDES) >= 10
    assert all(options for choices in LEXICON.values() for options in choices.values())


def test_the_seed_alone_decides() -> None:
    assert make_items(50, seed=3) == make_items(50, seed=3)
    assert make_items(50, seed=3) != make_items(50, seed=4)


def test_no_word_is_in_two_name_lists() -> None:
    lists = (words.FIRST_NAMES, words.SURNAMES, words.TOWN_STEMS, words.COMPANY_STEMS)
    counts = Counter(word for names in lists for word in names)
    assert [word for word, count in counts.items() if count > 1] == []


def test_reserving_a_name_depends_on_the_name_alone() -> None:
    assert not is_reserved("Marlow")  # a single word could not be copied: no training item would hold it
    share = sum(is_reserved(f"{first} {last}") for first in words.FIRST_NAMES for last in words.SURNAMES)
    assert 0.15 < share / (len(words.FIRST_NAMES) * len(words.SURNAMES)) < 0.25
