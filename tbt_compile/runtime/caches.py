"""Attention caches between the steps of a decoder.

Packed ones are in memory that has room for more tokens, so that a step writes its own token alone. Those of a
model with activations in full precision are made anew by every step, which concatenates.
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
    """The caches that a first step returns, as the next one takes them: each alone, or those of a stack.

    Args:
        outputs: logits, then keys and values, each at its position among the results of any step.
        stacks: positions of those that are one argument.
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
    """The caches that begin with what the first step made of so many tokens; see `arranged`."""
    return [
        GrowingCache(first, tokens) if isinstance(first, list) else FloatCache(first)
        for first in arranged(outputs, stacks)
    ]


_LEAST_TOKENS = 64
"""Tokens that new memory has room for, at least."""
_PACKED_ALONG_TOKENS = 6
"""Dimensions of values that hold 64 tokens in a word; other caches have a row per token."""


class GrowingCache:
    """Keys or values of all layers, `[layers, B, H, rows, ...]`: a row is a token, or a word of 64 of them.

    Args:
        first: what the first step made for each layer.
        tokens: how many tokens that is.
    """

    def __init__(self, first: Sequence[Tensor], tokens: int) -> None:
        starts = [as_array(tensor) for tensor in first]
        self._along_tokens = starts[0].ndim + 1 == _PACKED_ALONG_TOKENS
        self._length = tokens
        self._memory = _with_room(starts, self._rows(max(_LEAST_TOKENS, 2 * tokens)))
        self._rows_shown, self._shown = -1, first[0]

    def tensor(self) -> Tensor:
        """The cache as an argument of a compiled function: a view of this memory."""
        rows = self._rows(self._length)
        if rows != self._rows_shown:
            self._rows_shown, self._shown = rows, shared_tensor(self._memory[:, :, :, :rows], compact=False)
        return self._shown

    def grow(self) -> Tensor:
        """Make room for one more token behind the others, which the caller is to write."""
        self._length += 1
        rows = self._rows(self._length)
        if rows > self._memory.shape[3]:
            self._memory = _with_room(self._memory, 2 * rows)
            self._rows_shown = -1
        return self.tensor()

    def reorder(self, rows: Rows) -> None:
        """Replace the rows of the batch; those that stay where they are are not copied."""
        used = self._memory[:, :, :, : self._rows(self._length)]
        if len(rows) == used.shape[1]:
            moved = np.flatnonzero(rows != np.arange(len(rows)))
            used[:, moved] = used[:, rows[moved]]
        else:
            self._memory = _with_room(used[:, rows], self._memory.shape[3])
            self._rows_shown = -1

    def _rows(self, tokens: int) -> int:
        return words_for(tokens) if self._along_tokens else tokens


class FloatCache:
    """Keys or values in full precision, float32 `[B, H, T, D]`; methods as those of `GrowingCache`."""

    def __init__(self, first: Tensor) -> None:
        self._shown = first

    def tensor(self) -> Tensor:
        """The cache as an argument of a compiled function."""
        return self._shown

    def grow(self) -> Tensor:
        """Memory for one more token, all of which the caller is to write."""
        batch, heads, tokens, width = as_array(self._shown).shape
        self._shown = shared_tensor(aligned_empty((batch, heads, tokens + 1, width), np.float32))
        return self._shown

    def reorder(self, rows: Rows) -> None:
        """Replace the rows of the batch."""
        self._shown = take_rows([self._shown], rows)[0]


def take_rows(values: Sequence[Tensor], rows: Rows) -> list[Tensor]:
    """Rows of tensors along their first dimension; one packed row that is taken often has one copy."""
    return [shared_tensor(_taken(as_array(value), rows), compact=False) for value in values]


def _taken(array: Array, rows: Rows) -> Array:
    if len(array) == 1 and array.dtype != np.float32:
        row = aligned_copy(array)
        return np.ndarray((len(rows), *row.shape[1:]), row.dtype, row, strides=(0, *row.strides[1:]))
    taken = aligned_empty((len(rows), *array.shape[1:]), array.dtype)
    # Any other mode of NumPy's has `out` filled through a second buffer.
    np.take(array, rows, axis=0, out=taken, mode="clip")
    return taken


def _with_room(starts: Sequence[Array] | Array, rows: int) -> Array:
    batch, heads, used, *row = starts[0].shape
    memory = aligned_empty((len(starts), batch, heads, rows, *row), starts[0].dtype)
    for layer, start in enumerate(starts):
        memory[layer, :, :, :used] = start
    return memory
