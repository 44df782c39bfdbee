"""Memory planning: one block for all intermediate results of a unit, of symbolic sizes."""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.tvm_api import STACK_BYTES, Expr, T, simplify, structural_equal

_ALIGNMENT = 64
_BITS_PER_BYTE = 8


def bytes_of(shape: Sequence[Expr], dtype: str) -> Expr:
    """The size of a tensor in bytes, rounded up to the alignment."""
    digits = "".join(character for character in dtype if character.isdigit())
    total: Expr = T.int64(int(digits or _BITS_PER_BYTE) // _BITS_PER_BYTE)
    for size in shape:
        total = total * T.cast(size, "int64")
    return simplify((total + T.int64(_ALIGNMENT - 1)) // T.int64(_ALIGNMENT) * T.int64(_ALIGNMENT))


class Workspace:
    """An offset for every tensor; memory is reused after the last use of a tensor.

    Sizes are symbolic, so a tensor reuses only memory whose size is the same expression. That is the usual
    case, since layers repeat.

    Args:
        sizes: size of each tensor in bytes, by key.
        uses: for every step, the keys that it reads or writes; keys without a size are skipped.

    Attributes:
        offsets: the offset of each used tensor, in bytes.
        size: size of the block in bytes, large enough for TVM to allocate it from its pool instead of the
            stack, where it would not be aligned.
    """

    def __init__(self, sizes: dict[int, Expr], uses: Sequence[Sequence[int]]) -> None:
        last = {key: step for step, keys in enumerate(uses) for key in keys}
        self.offsets: dict[int, Expr] = {}
        self.size: Expr = T.int64(0)
        free: list[tuple[Expr, Expr]] = []
        for step, keys in enumerate(uses):
            for key in keys:
                if key in sizes and key not in self.offsets:
                    self.offsets[key] = self._allocate(sizes[key], free)
            dead = dict.fromkeys(key for key in keys if key in sizes and last[key] == step)
            free += [(sizes[key], self.offsets[key]) for key in dead]
        self.size = simplify(T.max(self.size, T.int64(STACK_BYTES)))

    def _allocate(self, size: Expr, free: list[tuple[Expr, Expr]]) -> Expr:
        """The offset of `size` bytes: from the free list (sizes and offsets), else at the end."""
        for index, (freed, offset) in enumerate(free):
            if structural_equal(freed, size):
                del free[index]
                return offset
        offset = self.size
        self.size = simplify(self.size + size)
        return offset
