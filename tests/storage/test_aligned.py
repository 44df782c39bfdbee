"""Arrays at addresses that TVM's kernels accept, whatever the heap returns."""

from __future__ import annotations

import numpy as np
import pytest

from tbt_compile.storage.aligned import ALIGNMENT, aligned_copy, aligned_empty


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_every_array_begins_at_an_aligned_address(shape: tuple[int, ...], dtype: type) -> None:
    # All of them stay alive, so that the heap returns many different addresses.
    arrays = [aligned_empty(shape, dtype) for _ in range(64)]
    assert [array.ctypes.data % ALIGNMENT for array in arrays] == [0] * 64
    assert all(array.shape == shape and array.dtype == dtype for array in arrays)


def test_a_copy_has_the_values_in_c_order_at_an_aligned_address() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T
    copies = [aligned_copy(array) for _ in range(16)]
    for copy in copies:
        np.testing.assert_array_equal(copy, array)
        assert copy.flags.c_contiguous
        assert copy.ctypes.data % ALIGNMENT == 0
