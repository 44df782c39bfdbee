"""How often two engines write exactly the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.errors import DataError


def token_agreement(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Share of the sequences, between 0 and 1, that are the same token for token.

    Raises:
        DataError: the two hold different numbers of sequences, or none.

    >>> token_agreement([[5, 6], [7]], [[5, 6], [8]])
    0.5
    """
    if len(first) != len(second) or not first:
        raise DataError(
            f"token sequences to compare: {len(first)} and {len(second)}, expected as many, at least one"
        )
    return sum(list(a) == list(b) for a, b in zip(first, second, strict=True)) / len(first)
