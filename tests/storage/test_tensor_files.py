"""Files of tensors: lossless; the mapped one aligned, shared with the file, and safe to lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file
from tensors import TENSORS, Array, same

from tbt_compile.errors import FormatError
from tbt_compile.storage import tensor_files
from tbt_compile.storage.aligned import ALIGNMENT


@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    )
)
def test_coding_is_lossless(tensor: Array) -> None:
    entry = tensor_files.describe(tensor)
    stored = tensor_files.encode(tensor)
    assert same(tensor_files.decode(stored, entry), tensor)


def test_neighbouring_floats_take_less_room() -> None:
    weights = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    assert tensor_files.encode(weights).nbytes < 0.9 * weights.nbytes


def test_every_mapped_tensor_is_aligned_and_the_same(tmp_path: Path) -> None:
    file = tmp_path / "tensors"
    described = tensor_files.write_mapped(file, TENSORS)
    loaded = tensor_files.read_mapped(file, described)
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert same(loaded[name], tensor), name
        assert tensor.size == 0 or loaded[name].ctypes.data % ALIGNMENT == 0, name
        assert loaded[name].flags.c_contiguous, name
    assert file.stat().st_size % ALIGNMENT == 0


def test_a_file_without_tensors(tmp_path: Path) -> None:
    described = tensor_files.write_mapped(tmp_path / "none", {})
    assert tensor_files.read_mapped(tmp_path / "none", described) == {}


def test_words_are_mapped_and_the_file_is_out_of_reach(tmp_path: Path) -> None:
    file = tmp_path / "tensors"
    described = tensor_files.write_mapped(file, {"words": np.arange(3, dtype=np.uint64)})
    before = file.read_bytes()
    first, second = (tensor_files.read_mapped(file, described)["words"] for _ in range(2))
    first[0] = 7  # a copy of the page, for this mapping alone
    assert second.tolist() == [0, 1, 2]
    assert file.read_bytes() == before
    file.unlink()
    assert second.tolist() == [0, 1, 2]


def test_compressed_floats_of_older_folders_are_read(tmp_path: Path) -> None:
    file = tmp_path / "older"
    save_file({name: tensor_files.encode(tensor) for name, tensor in TENSORS.items()}, file)
    described = {name: tensor_files.describe(tensor) for name, tensor in TENSORS.items()}
    loaded = tensor_files.read_portable(file, described)
    for name, tensor in TENSORS.items():
        assert same(loaded[name], tensor), name


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_files_that_hold_no_tensors(tmp_path: Path, content: bytes) -> None:
    portable = tensor_files.write_portable(tmp_path / "portable", TENSORS)
    mapped = tensor_files.write_mapped(tmp_path / "mapped", TENSORS)
    for name in ("portable", "mapped"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match="portable is damaged .*: save the model again"):
        tensor_files.read_portable(tmp_path / "portable", portable)
    with pytest.raises(FormatError, match="mapped is damaged .*: save the model again"):
        tensor_files.read_mapped(tmp_path / "mapped", mapped)
