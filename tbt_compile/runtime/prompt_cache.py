"""Keys and values of prompts that were read before, so that a prompt which begins alike is not read anew.

They depend on the tokens up to theirs alone. They are kept packed, as the model has them, in blocks of 64
tokens; a block is found by its tokens and those before it, and is there once for all prompts that share it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tbt_compile.runtime.caches import BLOCK, Block
from tbt_compile.runtime.generation import Tokens

_Key = tuple[int, bytes]


@dataclass(frozen=True)
class _Entry:
    number: int
    block: Block

    @property
    def size(self) -> int:
        return sum(part.nbytes for part in self.block)


class PromptCache:
    """Blocks of one model's prompts; those that were not used for longest make room for new ones.

    Thread-safe.

    Args:
        most_bytes: that the blocks may take.

    Attributes:
        most_bytes: as above.
        prompts: that were looked up.
        hits: prompts of which at least one block was found.
        tokens: of the prompts that were looked up.
        reused: tokens that were not read anew.
        bytes: that the blocks take.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.prompts = self.hits = self.tokens = self.reused = self.bytes = 0
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._made = 0
        self._lock = threading.Lock()

    def known(self, ids: Tokens) -> int:
        """The number of leading tokens of a prompt, int64 [S], that need not be read, but not of all."""
        with self._lock:
            return BLOCK * len(self._path(ids, (len(ids) - 1) // BLOCK))

    def find(self, ids: Tokens) -> list[Block]:
        """The leading blocks of a prompt, int64 [S], as far as they are known, but not all of it."""
        with self._lock:
            path = self._path(ids, (len(ids) - 1) // BLOCK)
            self._touch(path)
            return [self._entries[key].block for key in path]

    def count(self, tokens: int, reused: int) -> None:
        """Count a prompt that was looked up.

        Args:
            tokens: of the prompt.
            reused: of these, which were not read anew.
        """
        with self._lock:
            self.prompts += 1
            self.hits += reused > 0
            self.tokens += tokens
            self.reused += reused

    def add(self, ids: Tokens, cut: Callable[[int], Block]) -> None:
        """Keep the whole blocks of a prompt.

        Args:
            ids: int64 [S].
            cut: gives the block that begins with a token of the prompt.
        """
        with self._lock:
            path = self._path(ids, len(ids) // BLOCK)
            for index in range(len(path), len(ids) // BLOCK):
                key = self._key(path, ids, index)
                self._made += 1
                self._entries[key] = _Entry(self._made, cut(index * BLOCK))
                self.bytes += self._entries[key].size
                path.append(key)
            self._touch(path)
            while self.bytes > self.most_bytes:
                self.bytes -= self._entries.popitem(last=False)[1].size

    def _path(self, ids: Tokens, most: int) -> list[_Key]:
        """The keys of the leading blocks that are known."""
        path: list[_Key] = []
        while len(path) < most and (key := self._key(path, ids, len(path))) in self._entries:
            path.append(key)
        return path

    def _key(self, path: Sequence[_Key], ids: Tokens, index: int) -> _Key:
        before = self._entries[path[-1]].number if path else 0
        return before, np.ascontiguousarray(ids[index * BLOCK : (index + 1) * BLOCK], np.int64).tobytes()

    def _touch(self, path: Sequence[_Key]) -> None:
        """A block is newer than those that follow it: without it they could not be found."""
        for key in reversed(path):
            self._entries.move_to_end(key)
