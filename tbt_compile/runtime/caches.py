"""KV caches between the decode steps.

Packed caches are allocated with spare capacity for tokens and batch rows: a step appends its token in place,
and rows come and go without moving the others. Float caches, of models with activations in full precision,
are copied by every step, which concatenates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.layouts import words_for
from tbt_compile.runtime.bound_library import Array, Tensor, as_array
from tbt_compile.runtime.tvm_runtime import shared_tensor
from tbt_compile.storage.aligned import aligned_copy, aligned_empty

Rows = npt.NDArray[np.int64]
T = TypeVar("T")


def arranged(outputs: Sequence[T], stacks: Sequence[Sequence[int]]) -> list[T | list[T]]:
    """Group the caches that a first step returns as the next step takes them: single or stacked.

    Args:
        outputs: logits, then the caches, at the same positions as in the results of later steps.
        stacks: groups of positions whose caches are stacked in one argument.

    Returns:
        The caches in the order of the next step's arguments; a list stands for a stack.
    """
    members = {place: stack for stack in stacks for place in stack}
    found: list[T | list[T]] = []
    for place in range(1, len(outputs)):
        stack = members.get(place)
        if stack is None:
            found.append(outputs[place])
        elif stack[0] == place:
            found.append([outputs[member] for member in stack])
    return found


def caches_of(
    outputs: Sequence[Tensor], stacks: Sequence[Sequence[int]], tokens: int
) -> list[GrowingCache | FloatCache]:
    """Make growing caches from the results of the first step.

    Args:
        outputs: as for `arranged`.
        stacks: as for `arranged`.
        tokens: number of tokens in the caches.

    Returns:
        One cache per argument of the next step.
    """
    return [
        GrowingCache(first, tokens) if isinstance(first, list) else FloatCache(first)
        for first in arranged(outputs, stacks)
    ]


BLOCK = 64
"""Tokens whose values are packed in one word."""
Block = list[Array]
"""The keys and values of 64 tokens of one row, one array per cache of a step."""
_LEAST_TOKENS = 64
"""Minimum capacity of a new cache, in tokens."""
_PACKED_ALONG_TOKENS = 6
"""Dimensions of a stack of values that are packed along the tokens; other caches have one row per token."""


class GrowingCache:
    """Stacked keys or values of all layers, `[layers, B, H, rows, ...]`, with spare capacity.

    A row of `rows` holds one token, or 64 tokens for values that are packed along the tokens.

    Args:
        first: the caches of the first step, one per layer.
        tokens: number of tokens in them.
    """

    def __init__(self, first: Sequence[Tensor], tokens: int) -> None:
        starts = [as_array(tensor) for tensor in first]
        self._along_tokens = starts[0].ndim + 1 == _PACKED_ALONG_TOKENS
        self._length, self._batch = tokens, starts[0].shape[0]
        self._memory = _with_room(starts, self._rows(max(_LEAST_TOKENS, 2 * tokens)))
        self._shape_shown, self._shown = (-1, -1), first[0]

    @property
    def _used(self) -> Array:
        return self._memory[:, : self._batch, :, : self._rows(self._length)]

    def tensor(self) -> Tensor:
        """Return the cache as an argument of a compiled function, a strided view without what is spare."""
        shape = self._batch, self._rows(self._length)
        if shape != self._shape_shown:
            self._shape_shown, self._shown = shape, shared_tensor(self._used, compact=False)
        return self._shown

    def grow(self, tokens: int = 1) -> Tensor:
        """Extend the cache by some tokens, which the caller has to write; returns `tensor()`."""
        self._length += tokens
        rows = self._rows(self._length)
        if rows > self._memory.shape[3]:
            self._take(_with_room(self._memory, 2 * rows))
        return self.tensor()

    def reorder(self, rows: Rows) -> None:
        """Replace the batch rows by the current ones at the indices `rows`; copies only rows that move."""
        if len(rows) > self._memory.shape[1]:
            self._take(_with_room(self._used[:, rows], self._memory.shape[3]))
        else:
            moved = np.flatnonzero(rows != np.arange(len(rows)))
            self._memory[:, moved, :, : self._rows(self._length)] = self._used[:, rows[moved]]
        self._batch = len(rows)

    def join(self, other: GrowingCache) -> None:
        """Append the batch rows of another cache, so that all end with their newest token.

        The cache with fewer tokens gets zeros in front, which a mask has to hide.

        Args:
            other: has the same layers, heads and layout.
        """
        batch, length = self._batch + other._batch, max(self._length, other._length)
        layers, room, heads, rows, *row = self._memory.shape
        if batch > room or self._rows(length) > rows or length > self._length:
            shape = (layers, 2 ** (batch - 1).bit_length(), heads, self._rows(length + _LEAST_TOKENS), *row)
            memory = aligned_empty(shape, self._memory.dtype)
            self._copy_to(memory, 0, length)
            self._take(memory)
        other._copy_to(self._memory, self._batch, length)
        self._batch, self._length = batch, length

    def _copy_to(self, memory: Array, first: int, length: int) -> None:
        """Copy all batch rows, the first of them to `first`, so that they end at the token `length`."""
        used, before = self._used, length - self._length
        place = memory[:, first : first + self._batch, :, : self._rows(length)]
        if self._along_tokens:
            word, bits = divmod(before, BLOCK)
            end = word + used.shape[3]
            place[:, :, :, :word] = 0
            place[:, :, :, word:end] = used << np.uint64(bits)
            place[:, :, :, end:] = 0
            if bits:
                carried = used >> np.uint64(BLOCK - bits)
                after = place[:, :, :, word + 1 : end + 1]
                after |= carried[:, :, :, : after.shape[3]]
        else:
            place[:, :, :, :before] = 0
            place[:, :, :, before:] = used

    def _take(self, memory: Array) -> None:
        self._memory, self._shape_shown = memory, (-1, -1)

    def block(self, row: int, first: int) -> Array:
        """Copy 64 tokens of a row, from the token `first` on: [layers, H, 64, ...], or one word of values."""
        if not self._along_tokens:
            return self._memory[:, row, :, first : first + BLOCK].copy()
        word, bits = divmod(first, BLOCK)
        taken = self._memory[:, row, :, word : word + 1] >> np.uint64(bits)
        if bits:
            taken |= self._memory[:, row, :, word + 1 : word + 2] << np.uint64(BLOCK - bits)
        return taken

    @classmethod
    def of_blocks(cls, rows: Sequence[tuple[int, Sequence[Array]]], tokens: int) -> GrowingCache:
        """A cache of blocks that follow each other.

        Args:
            rows: per batch row the number of tokens before the first block, which a mask hides, and blocks.
            tokens: number of tokens in the cache; what blocks hold beyond is left out.
        """
        like = rows[0][1][0]
        made = cls.__new__(cls)
        made._along_tokens, made._length = like.ndim + 1 == _PACKED_ALONG_TOKENS, tokens
        made._batch = len(rows)
        layers, heads, _, *row = like.shape
        shape = (layers, len(rows), heads, made._rows(max(_LEAST_TOKENS, 2 * tokens) + 2 * BLOCK), *row)
        memory = aligned_empty(shape, like.dtype)
        made._take(memory)
        memory[...] = 0
        for index, (before, blocks) in enumerate(rows):
            for first, block in zip(range(before, tokens, BLOCK), blocks, strict=False):
                if made._along_tokens:
                    word, bits = divmod(first, BLOCK)
                    memory[:, index, :, word : word + 1] |= block << np.uint64(bits)
                    if bits:
                        memory[:, index, :, word + 1 : word + 2] |= block >> np.uint64(BLOCK - bits)
                else:
                    memory[:, index, :, first : first + BLOCK] = block
        made._clear(tokens)
        return made

    def _clear(self, tokens: int) -> None:
        """Set everything behind the first tokens to zero."""
        self._memory[:, :, :, self._rows(tokens) :] = 0
        if self._along_tokens and tokens % BLOCK:
            self._memory[:, :, :, tokens // BLOCK] &= np.uint64((1 << tokens % BLOCK) - 1)

    def drop(self, tokens: int) -> None:
        """Forget the first tokens of every row, a multiple of `BLOCK`."""
        used = self._used[:, :, :, self._rows(tokens) :]
        self._length -= tokens
        self._take(_with_room(used, self._rows(self._length + _LEAST_TOKENS)))

    def _rows(self, tokens: int) -> int:
        return words_for(tokens) if self._along_tokens else tokens


class FloatCache:
    """Keys or values in full precision, float32 `[B, H, T, D]`; same methods as `GrowingCache`."""

    def __init__(self, first: Tensor) -> None:
        self._shown = first

    def tensor(self) -> Tensor:
        """Return the cache as an argument of a compiled function."""
        return self._shown

    def grow(self, tokens: int = 1) -> Tensor:
        """Allocate a cache that is some tokens longer, all of which the caller has to write."""
        batch, heads, before, width = as_array(self._shown).shape
        self._shown = shared_tensor(aligned_empty((batch, heads, before + tokens, width), np.float32))
        return self._shown

    def block(self, row: int, first: int) -> Array:
        """As `GrowingCache.block`: [H, 64, D]."""
        return as_array(self._shown)[row, :, first : first + BLOCK].copy()

    @classmethod
    def of_blocks(cls, rows: Sequence[tuple[int, Sequence[Array]]], tokens: int) -> FloatCache:
        """As `GrowingCache.of_blocks`."""
        heads, _, width = rows[0][1][0].shape
        memory = aligned_empty((len(rows), heads, tokens, width), np.float32)
        memory[...] = 0
        for index, (before, blocks) in enumerate(rows):
            for first, block in zip(range(before, tokens, BLOCK), blocks, strict=False):
                memory[index, :, first : first + BLOCK] = block[:, : tokens - first]
        return cls(shared_tensor(memory))

    def reorder(self, rows: Rows) -> None:
        """Replace the batch rows by the current ones at the indices `rows`."""
        self._shown = take_rows([self._shown], rows)[0]

    def join(self, other: FloatCache) -> None:
        """As `GrowingCache.join`."""
        parts = [as_array(cache._shown) for cache in (self, other)]
        length = max(part.shape[2] for part in parts)
        padded = [np.pad(part, ((0, 0), (0, 0), (length - part.shape[2], 0), (0, 0))) for part in parts]
        self._shown = shared_tensor(aligned_copy(np.concatenate(padded)))

    def drop(self, tokens: int) -> None:
        """Forget the first tokens of every row."""
        self._shown = shared_tensor(aligned_copy(as_array(self._shown)[:, :, tokens:]))


def caches_of_blocks(
    rows: Sequence[tuple[int, Sequence[Block]]], tokens: int
) -> list[GrowingCache | FloatCache]:
    """Make growing caches from kept blocks.

    Args:
        rows: per batch row the number of tokens before the first block, which a mask hides, and its blocks.
        tokens: number of tokens in the caches.

    Returns:
        One cache per argument of the next step.
    """
    count = len(rows[0][1][0])
    kinds = [FloatCache if part.dtype == np.float32 else GrowingCache for part in rows[0][1][0]]
    return [
        kinds[place].of_blocks(
            [(before, [block[place] for block in blocks]) for before, blocks in rows], tokens
        )
        for place in range(count)
    ]


def take_rows(values: Sequence[Tensor], rows: Rows) -> list[Tensor]:
    """Gather rows of tensors along the first dimension; copies of a single packed row alias one array."""
    return [shared_tensor(_taken(as_array(value), rows), compact=False) for value in values]


def _taken(array: Array, rows: Rows) -> Array:
    if len(array) == 1 and array.dtype != np.float32:
        row = aligned_copy(array)
        return np.ndarray((len(rows), *row.shape[1:]), row.dtype, row, strides=(0, *row.strides[1:]))
    taken = aligned_empty((len(rows), *array.shape[1:]), array.dtype)
    # With mode="raise", NumPy fills `out` through a temporary buffer.
    np.take(array, rows, axis=0, out=taken, mode="clip")
    return taken


def _with_room(starts: Sequence[Array] | Array, rows: int) -> Array:
    batch, heads, used, *row = starts[0].shape
    memory = aligned_empty((len(starts), batch, heads, rows, *row), starts[0].dtype)
    for layer, start in enumerate(starts):
        memory[layer, :, :, :used] = start
    return memory
