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
