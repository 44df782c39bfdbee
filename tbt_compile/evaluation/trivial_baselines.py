"""Trivial baselines: copying the first sentence of the source, and writing the same text for every source.

A model has learned something only if it scores above them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.evaluation.scores import RougeScores, rouge, sentences


def lead_sentence(text: str) -> str:
    """The first sentence of a text.

    >>> lead_sentence("Shares fell 3.5 percent. Nobody knew why.")
    'Shares fell 3.5 percent.'
    """
    return sentences(text)[0]


def lead_baseline(pairs: Sequence[TextPair]) -> RougeScores:
    """The score of copying the first sentence of each source."""
    return rouge([lead_sentence(pair.source) for pair in pairs], [pair.target for pair in pairs])


def constant_baseline(
    train: Sequence[TextPair], test: Sequence[TextPair], sample: int = 300
) -> tuple[str, RougeScores]:
    """The best constant output, chosen on training targets, and its score.

    The candidates are the first `sample` targets and the one to twelve most frequent words. The one that
    shares most words with the next `sample` targets wins.

    Args:
        train: pairs to choose the text on.
        test: pairs to score it on.
        sample: targets to choose from, and as many to judge by.

    Returns:
        The text and its score.
    """
    targets = [pair.target for pair in train]
    judges = [Counter(target.lower().split()) for target in targets[sample : 2 * sample] or targets]
    counts = Counter(word for target in targets for word in dict.fromkeys(target.split()))
    frequent = [word for word, _ in counts.most_common(12)]
    candidates = targets[:sample] + [" ".join(frequent[:size]) for size in range(1, len(frequent) + 1)]
    best = max(dict.fromkeys(candidates), key=lambda text: _mean_overlap(text, judges))
    return best, rouge([best] * len(test), [pair.target for pair in test])


def _mean_overlap(text: str, judges: Sequence[Counter[str]]) -> float:
    """The mean unigram F-measure of a text: ROUGE-1 without stemming, fast enough for many candidates."""
    words = Counter(text.lower().split())
    return sum(2 * (words & judge).total() / (words.total() + judge.total()) for judge in judges) / len(
        judges
    )
