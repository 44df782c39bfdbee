"""The tensor parameters of a compiled function, and the layouts in which it takes them.

A frozen model stores each tensor in one form, float32 or packed words, for all instruction sets. Lowering
arranges it in the layout that the kernels read, and a compiled folder holds that layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.layouts import Layout, arrange, interleaved_shape
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.encoding import Encoding
from tbt_compile.storage.aligned import aligned_copy

WEIGHT = "weight"
SCALE = "scale"
PLAIN = "plain"


@dataclass(frozen=True)
class Parameter:
    """One tensor argument of a compiled function.

    Attributes:
        name: of the tensor in the frozen model's state.
        role: `WEIGHT` (packed codes), `SCALE` (flattened to one dimension) or `PLAIN` (as stored).
        dtype: of the argument.
        shape: of the argument, in the layout that the kernels read.
        encoding: encoding of a weight; else None.
        layout: layout of a weight of 1 or 2 bits.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    encoding: Encoding | None = None
    layout: Layout = Layout.PLANES

    @classmethod
    def weight(
        cls, name: str, stored: tuple[int, ...], encoding: Encoding, columns: int, isa: Isa, layout: Layout
    ) -> Parameter:
        """The parameter of a packed weight; 8-bit weights are not interleaved.

        Args:
            name: of the tensor in the frozen model's state.
            stored: shape of the stored tensor, `[N, planes, words]`, or `[N, K]` at 8 bits and more.
            encoding: of a weight.
            columns: K.
            isa: instruction set that fixes the block size.
            layout: how the kernels read the weight.

        Returns:
            A parameter of dtype uint64, int8 at 8 bits, or int16 in half precision.
        """
        if not encoding.planes:
            return cls(name, WEIGHT, "int16" if encoding.half else "int8", stored, encoding)
        shape = interleaved_shape(stored[0], columns, encoding, isa)
        return cls(name, WEIGHT, "uint64", shape, encoding, layout)

    def arrange(self, stored: npt.NDArray[Any], isa: Isa) -> npt.NDArray[Any]:
        """An aligned copy of the stored tensor in the layout of the argument."""
        if self.encoding is not None and self.encoding.planes:
            return arrange(stored.view(np.uint64), self.layout, isa)
        return aligned_copy(stored.reshape(self.shape))
