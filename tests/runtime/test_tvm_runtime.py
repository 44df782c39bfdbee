"""TVM's runtime alone: tensors that copy, tensors that share, and rows of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tbt_compile.runtime.tvm_runtime import as_array, shared_tensor, tensor
from tbt_compile.runtime.without_torch import torch_hidden
from tbt_compile.storage.aligned import aligned_copy, aligned_empty


def test_a_tensor_has_its_own_memory_and_a_shared_one_has_not() -> None:
    array = aligned_copy(np.arange(6, dtype=np.uint64).reshape(2, 3))
    copied, shared = tensor(array), shared_tensor(array)
    array[0, 0] = 7
    assert as_array(copied).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert as_array(shared).tolist() == [[7, 1, 2], [3, 4, 5]]
    assert np.shares_memory(as_array(shared), array)


def test_a_shared_tensor_keeps_its_array() -> None:
    shared = shared_tensor(aligned_copy(np.arange(1000.0)))
    assert np.array_equal(as_array(shared), np.arange(1000.0))


def test_empty_arrays_are_shared_too() -> None:
    # The parameter offsets of a function without parameters, for one.
    shared = [shared_tensor(aligned_empty((0,), np.int64)) for _ in range(64)]
    assert [as_array(value).shape for value in shared] == [(0,)] * 64


def test_what_cannot_be_shared() -> None:
    array = aligned_empty((4, 16), np.float32)
    with pytest.raises(RuntimeError, match="aligned"):
        shared_tensor(array.reshape(-1)[1:])
    with pytest.raises(RuntimeError, match="contiguous"):
        shared_tensor(array.T)
    assert as_array(shared_tensor(array.T, compact=False)).shape == (16, 4)
    assert as_array(tensor(array.T)).shape == (16, 4)


def test_torch_is_hidden_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = sys.modules["torch"]
    with torch_hidden():
        assert sys.modules["torch"] is torch  # it is there already
    monkeypatch.delitem(sys.modules, "torch")
    with torch_hidden(), pytest.raises(ModuleNotFoundError):
        import torch
    assert "torch" not in sys.modules
