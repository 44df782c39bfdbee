"""In which order examples are trained on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

POOL = 50
"""Batches that are sorted by length together: large enough to save padding, small enough to stay random."""


class TrainingOrder(Sampler[int]):
    """Every index of a whole training run, as many epochs as its steps need, in batches of similar length.

    It is settled by the lengths and the seed alone, so that a resumed run sees exactly the batches that the
    interrupted one would have seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> None:
        self.lengths, self.batch_size, self.steps, self.seed = lengths, batch_size, steps, seed

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(self.seed)
        left = len(self)
        shuffled: list[int] = []
        pool = POOL * self.batch_size
        while left > 0:
            while len(shuffled) < min(pool, left):
                epoch = list(range(len(self.lengths)))
                rng.shuffle(epoch)
                shuffled += epoch
            chunk, shuffled = shuffled[: min(pool, left)], shuffled[min(pool, left) :]
            chunk.sort(key=lambda index: self.lengths[index])
            batches = [
                chunk[first : first + self.batch_size] for first in range(0, len(chunk), self.batch_size)
            ]
            rng.shuffle(batches)
            for batch in batches:
                yield from batch
            left -= len(chunk)
