"""BART's denoising objective: texts with deleted words as sources, the whole texts as targets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from tbt_compile.data.text_pairs import TextPair


def deleted(text: str, share: float, generator: random.Random) -> str:
    """Delete about `share` of the words of `text`: BART's "token deletion" (Lewis et al. 2019, section 3.1).

    Args:
        text: words with spaces between them.
        share: probability of a word to be deleted.
        generator: of the deletions.

    >>> deleted("a b c d e f", 0.5, random.Random(1))
    'b c'
    """
    return " ".join(word for word in text.split() if generator.random() >= share)


def noisy_pairs(texts: Iterable[str], copies: int, share: float, seed: int = 0) -> Iterator[TextPair]:
    """Pairs of a text with deleted words and the whole text; empty sources are skipped.

    Args:
        texts: duplicates are used once.
        copies: pairs per text, with different words deleted.
        share: of the words to delete.
        seed: of the deletions.
    """
    generator = random.Random(seed)
    kept = list(dict.fromkeys(texts))
    for _ in range(copies):
        for text in kept:
            source = deleted(text, share, generator)
            if source:
                yield TextPair(source, text)
