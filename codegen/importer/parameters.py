"""What the tensors of an export unit become in the compiled function.

In a frozen model each has one form, the same for every instruction set (float32, or packed words). It is
brought into the layout that the kernels read when the model is lowered, and a compiled folder holds it so.
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
        role: `WEIGHT` (packed codes), `SCALE` (flattened to one dimension) or `PLAIN` (as it is stored).
        dtype: of the argument.
        shape: of the argument, in the layout that the kernels read.
        encoding: of a weight; else None.
        layout: of a weight of 1 or 2 bits.
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
        """Packed codes `[N, planes, words]`, or bytes `[N, K]` at 8 bits, which need no interleaving."""
        if encoding is Encoding.INT8:
            return cls(name, WEIGHT, "int8", stored, encoding)
        shape = interleaved_shape(stored[0], columns, encoding, isa)
        return cls(name, WEIGHT, "uint64", shape, encoding, layout)

    def arrange(self, stored: npt.NDArray[Any], isa: Isa) -> npt.NDArray[Any]:
        """A copy of the stored tensor in the layout of the argument, aligned."""
        if self.role == WEIGHT and self.encoding is not Encoding.INT8:
            return arrange(stored.view(np.uint64), self.layout, isa)
        return aligned_copy(stored.reshape(self.shape))
