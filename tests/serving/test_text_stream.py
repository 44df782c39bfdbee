"""Pieces of a stream add up to the text of its tokens, whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from tbt_compile.serving.text_stream import TextStream


def byte_fallback() -> Tokenizer:
    """A vocabulary such as Llama 2 has: words, and every byte."""
    names = ["<unk>", "a", "\u2581b", *(f"<0x{value:02X}>" for value in range(256))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


FALLBACK = byte_fallback()
BYTES = st.sampled_from(["\u20ac", "\U0001f600", "\n", "z"]).map(
    lambda text: [FALLBACK.token_to_id(f"<0x{value:02X}>") for value in text.encode()]
)
ANY = st.integers(0, FALLBACK.get_vocab_size() - 1).map(lambda token: [token])


@given(st.lists(st.one_of(BYTES, ANY), min_size=1, max_size=12))
def test_bytes_in_any_order(parts: list[list[int]]) -> None:
    ids = [token for part in parts for token in part]
    stream = TextStream(FALLBACK)
    assert "".join([*map(stream.push, ids), stream.end()]) == FALLBACK.decode(ids)


def test_a_character_of_bytes_comes_with_the_next_token() -> None:
    stream = TextStream(FALLBACK)
    ids = [FALLBACK.token_to_id(f"<0x{value:02X}>") for value in "\u20ac".encode()]
    assert [stream.push(token) for token in ids] == ["", "", ""]
    assert stream.push(1) == "\u20aca"


@pytest.mark.parametrize(("stops", "expected"), [(["\u20ac"], "a"), (["ba"], "a\u20ac b")])
def test_stops_among_bytes(stops: list[str], expected: str) -> None:
    ids = [1, *(FALLBACK.token_to_id(f"<0x{value:02X}>") for value in "\u20ac".encode()), 2]
    stream = TextStream(FALLBACK, stops)
    assert "".join([*map(stream.push, ids), stream.end()]) == expected


def bytes_of(text: str) -> list[int]:
    return [FALLBACK.token_to_id(f"<0x{value:02X}>") for value in text.encode()]


def test_a_stop_within_a_run_of_bytes_ends_the_text_at_once() -> None:
    stream = TextStream(FALLBACK, ["\n\n", "\u20ac!"])
    pieces = []
    for token in [1, *bytes_of("z\n"), *bytes_of("\n" * 50)]:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    assert pieces == ["a", "", "", "z"]
    assert stream.end() == ""


def test_a_stop_across_a_word_and_bytes() -> None:
    stream = TextStream(FALLBACK, ["a\u20ac"])
    assert [stream.push(token) for token in [2, 1, *bytes_of("\u20ac")]] == [" b"[1:], "", "", "", ""]
    assert stream.stopped


def test_bytes_that_are_no_text_stop_nothing() -> None:
    stream = TextStream(FALLBACK, ["\n"])
    ids = [1, FALLBACK.token_to_id("<0xE2>"), *bytes_of("\n"), 1]
    assert "".join([*map(stream.push, ids), stream.end()]) == FALLBACK.decode(ids)
    assert not stream.stopped


def test_the_last_token_may_complete_a_stop() -> None:
    stream = TextStream(FALLBACK, ["\ufffd"])
    stream.push(1)
    stream.push(FALLBACK.token_to_id("<0xE2>"))
    assert stream.end() == ""
    assert stream.stopped


@pytest.mark.parametrize("pad", [0, 3])
def test_long_texts_take_time_in_proportion(pad: int) -> None:
    """Tokens are decoded a few times each, not once for each that follows."""
    from unittest.mock import Mock

    counted = Mock(wraps=FALLBACK)
    stream = TextStream(counted)
    ids = [1, 2, *[0] * pad] * 500
    text = "".join(map(stream.push, ids))
    decoded = sum(len(call.args[0]) for call in counted.decode.call_args_list)
    assert text + stream.end() == FALLBACK.decode(ids)
    assert decoded < 8 * len(ids)
