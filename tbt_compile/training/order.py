"""The order of training examples: shuffled, in batches of similar length, fixed by the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

POOL = 50
"""Batches sorted by length together: enough to save padding, few enough to stay random."""


class TrainingOrder(Sampler[int]):
    """A sampler over a whole run: as many epochs as the steps need, in batches of similar length.

    The order depends only on the arguments, so a resumed run sees the batches that the interrupted run would
    have seen.

    Args:
        lengths: source tokens of every example.
        batch_size: examples per step, over all processes.
        steps: optimizer steps of the run.
        seed: of the shuffling.
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
