"""Linear layers of 1, 2 or 8 bit activations and 1 or 2 bit weights, by popcounts of bit-planes."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue, PackedRows
from tbt_compile.codegen.kernels.dot.register_tile import Columns
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear.spec import CHUNK_ROWS, LinearSpec
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr

_TASK_BYTES = 24 << 10
_MIN_TASKS = 8


class PopcountGemm:
    """A chunk of rows as bit-planes, and its products with weight blocks; a `ChunkProduct`.

    A task has several blocks if their weights fit the L1 cache: outputs are then written in longer runs.
    """

    chunk_rows = CHUNK_ROWS
    packs_tables = False

    def __init__(self, spec: LinearSpec, scale: Expr) -> None:
        product = bit_product(spec.activation, spec.weight)
        self.spec = spec
        self.scale = scale
        self.rows = PackedRows(product, spec.isa, spec.k, CHUNK_ROWS)
        # Instructions per term and vector: without a popcount, bits are counted by byte shuffles.
        per_vector = 3 if spec.isa.has_popcount else 8
        self.ops_per_word = -(-2 * per_vector * len(product.terms) // spec.isa.word_lanes)
        blocks, size = spec.n // spec.isa.block, 8 * words_for(spec.k) * spec.weight.planes * spec.isa.block
        limit = min(blocks // _MIN_TASKS, _TASK_BYTES // size)
        self.blocks_per_task = next((count for count in range(limit, 1, -1) if blocks % count == 0), 1)

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize and pack one row."""
        self.rows.pack(row, load, self.scale, self.spec.center, self.spec.floor)

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with weight blocks; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, columns].
            block: index of the first block.
            blocks: number of blocks.
            epilogue: consumes the dot products.
        """
        size = self.spec.isa.block

        def columns(offset: Expr, lanes: int) -> Columns:
            def read(word: Expr, plane: int) -> Expr:
                return emit.load(w, block + offset // size, word, plane, offset % size, lanes=lanes)

            return Columns(read, lanes)

        self.rows.multiply(count, columns, blocks * size, epilogue)
