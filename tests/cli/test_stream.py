"""`tbt run --stream`: the pieces add up to the text, also when it ends inside a character."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tbt_compile.cli.run import _stream
from tbt_compile.data.tokenization import train_bpe_tokenizer


class Writes:
    """A model that writes given tokens."""

    def __init__(self, tokens: list[int], is_encoder_decoder: bool) -> None:
        self.tokens, self.is_encoder_decoder = tokens, is_encoder_decoder

    def generate(self, sources: Any, *, attention_mask: Any, on_tokens: Callable[[np.ndarray], None]) -> None:
        assert np.shape(attention_mask) == np.shape(sources)
        for token in self.tokens:
            on_tokens(np.array([token]))


@pytest.mark.parametrize("kept", [None, -1])
def test_the_stream_is_the_text(kept: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_bpe_tokenizer(["plain words"], 300).backend_tokenizer
    tokens = tokenizer.encode("words \u20ac", add_special_tokens=False).ids[:kept]
    expected = tokenizer.decode(tokens)
    assert expected.endswith("\u20ac" if kept is None else "\ufffd")
    assert _stream(Writes(tokens, True), tokenizer, [], {}) == expected
    assert capsys.readouterr().out == expected + "\n"


def test_the_stream_of_a_decoder_only_model_begins_with_its_prompt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = train_bpe_tokenizer(["plain words"], 300).backend_tokenizer
    prompt, tokens = (
        tokenizer.encode(text, add_special_tokens=False).ids for text in ("plain \u20ac", " words")
    )
    expected = tokenizer.decode([*prompt, *tokens])
    assert _stream(Writes(tokens, False), tokenizer, prompt, {}) == expected
    assert capsys.readouterr().out == expected + "\n"
