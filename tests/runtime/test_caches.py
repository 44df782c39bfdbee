"""Caches in memory with room for more: growing, views, rows that move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbt_compile.runtime.caches import GrowingCache, arranged, caches_of, take_rows
from tbt_compile.runtime.step_buffers import StepLogits, StepTokens
from tbt_compile.runtime.tvm_runtime import Tensor, as_array, shared_tensor, tensor
from tbt_compile.storage.aligned import aligned_copy


def append(cache: GrowingCache, value: np.ndarray) -> None:
    """What a step does: it writes the newest row through the tensor that it is given."""
    torch.from_dlpack(cache.grow())[:, :, :, -1] = torch.from_numpy(value)


def layers(stack: np.ndarray) -> list[Tensor]:
    return [tensor(layer) for layer in stack]


@pytest.mark.parametrize("tokens", [1, 3, 100])
def test_a_cache_of_tokens_grows_as_if_it_was_concatenated(tokens: int) -> None:
    rng = np.random.default_rng(0)
    expected = rng.integers(-128, 128, (2, 2, 3, tokens, 8), np.int8)
    cache = GrowingCache(layers(expected), tokens)
    for step in range(150):
        assert np.array_equal(as_array(cache.tensor()), expected)
        new = rng.integers(-128, 128, (2, 2, 3, 8), np.int8)
        append(cache, new)
        expected = np.concatenate([expected, new[:, :, :, None]], axis=3)
        if step % 7 == 0:
            rows = rng.integers(0, 2, 2)
            cache.reorder(rows)
            expected = expected[:, rows]


def test_a_cache_of_words_grows_by_a_row_every_64_tokens() -> None:
    start = np.arange(3 * 2 * 1 * 1 * 2 * 4, dtype=np.uint64).reshape(3, 2, 1, 1, 2, 4)
    cache = GrowingCache(layers(start), 60)
    first = cache.tensor()
    assert all(cache.grow() is first for _ in range(4))
    assert np.array_equal(as_array(first), start)
    for tokens in range(65, 400):
        assert as_array(cache.grow()).shape == (3, 2, 1, -(-tokens // 64), 2, 4)
        assert np.array_equal(as_array(cache.tensor())[:, :, :, :1], start)


def test_other_numbers_of_rows() -> None:
    start = np.arange(2 * 2 * 3 * 5 * 4, dtype=np.uint64).reshape(2, 2, 3, 5, 4)
    cache = GrowingCache(layers(start), 5)
    for rows in ([0, 0, 1, 1], [3, 1, 0], [2]):
        cache.reorder(np.array(rows))
        start = start[:, rows]
        assert np.array_equal(as_array(cache.tensor()), start)


def packed(bits: np.ndarray) -> np.ndarray:
    """Pack bool [layers, B, H, T, P, D] along T: uint64 [layers, B, H, words, P, D]."""
    padded = np.pad(bits, [(0, 0)] * 3 + [(0, -bits.shape[3] % 64)] + [(0, 0)] * 2).astype(np.uint64)
    words = padded.reshape(*bits.shape[:3], -1, 64, *bits.shape[4:])
    return (words << np.arange(64, dtype=np.uint64)[:, None, None]).sum(axis=4, dtype=np.uint64)


def ending_together(parts: list[np.ndarray]) -> np.ndarray:
    """All rows of [layers, B, H, T, ...], those with fewer tokens behind zeros."""
    length = max(part.shape[3] for part in parts)
    spare = [[(0, 0)] * 3 + [(length - part.shape[3], 0)] + [(0, 0)] * (part.ndim - 4) for part in parts]
    return np.concatenate([np.pad(part, pad) for part, pad in zip(parts, spare, strict=True)], axis=1)


@given(
    seed=st.integers(0, 2**32 - 1),
    along_tokens=st.booleans(),
    lengths=st.lists(st.integers(1, 200), min_size=2),
)
def test_rows_come_and_go(seed: int, along_tokens: bool, lengths: list[int]) -> None:
    """Bit for bit what a concatenation is, for rows of any lengths, whoever leaves in between."""
    rng = np.random.default_rng(seed)
    width, kind = ((2, 3), bool) if along_tokens else ((4,), np.int8)
    pack = packed if along_tokens else np.ascontiguousarray
    expected, cache = None, None
    for length in lengths:
        new = rng.integers(0, 2, (2, int(rng.integers(1, 4)), 3, length, *width)).astype(kind)
        joining = GrowingCache(layers(pack(new)), length)
        if cache is None:
            expected, cache = new, joining
        else:
            expected = ending_together([expected, new])
            cache.join(joining)
        assert np.array_equal(as_array(cache.tensor()), pack(expected))
        rows = rng.permutation(expected.shape[1])[: rng.integers(1, expected.shape[1] + 1)]
        cache.reorder(rows)
        expected = expected[:, rows]
        assert np.array_equal(as_array(cache.tensor()), pack(expected))
        if not along_tokens:
            token = rng.integers(-128, 128, (2, len(rows), 3, 4), np.int8)
            append(cache, token)
            expected = np.concatenate([expected, token[:, :, :, None]], axis=3)
        spare = expected.shape[3] // 64 * 64
        if spare == expected.shape[3]:
            spare -= 64
        if rng.random() < 0.3 and spare > 0:
            cache.drop(spare)
            expected = expected[:, :, :, spare:]
            assert np.array_equal(as_array(cache.tensor()), pack(expected))


def test_caches_come_in_the_order_of_the_arguments() -> None:
    """Of three layers the second one's attention is in full precision."""
    outputs = ["logits", "k0", "v0", "k1", "v1", "k2", "v2"]
    assert arranged(outputs, [[1, 5], [2, 6]]) == [["k0", "k2"], ["v0", "v2"], "k1", "v1"]
    assert arranged(outputs[:3], [[1], [2]]) == [["k0"], ["v0"]]
    assert arranged(outputs, []) == outputs[1:]


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint64])
def test_rows_of_a_tensor(dtype: type) -> None:
    array = np.arange(24).reshape(4, 2, 3).astype(dtype)
    first = as_array(take_rows([tensor(array[:1])], np.array([0, 0]))[0])
    assert np.array_equal(first, array[[0, 0]])
    taken = as_array(take_rows([tensor(array)], np.array([3, 0, 0]))[0])
    assert taken.dtype == dtype
    assert np.array_equal(taken, array[[3, 0, 0]])


def test_a_cache_of_floats_is_made_anew() -> None:
    start = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    (cache,) = caches_of([tensor(start), tensor(start)], [], 4)
    grown = cache.grow()
    assert grown.shape == (2, 3, 5, 5)
    torch.from_dlpack(grown)[...] = 7
    cache.reorder(np.array([1, 1, 0]))
    assert np.array_equal(as_array(cache.tensor()), np.full((3, 3, 5, 5), 7))


def test_one_row_many_times_has_one_copy() -> None:
    array = aligned_copy(np.arange(6).reshape(1, 2, 3))
    taken = as_array(take_rows([shared_tensor(array)], np.zeros(4, np.int64))[0])
    assert np.array_equal(taken, array.repeat(4, 0))
    assert taken.strides[0] == 0


def test_logits_keep_their_memory_while_rows_stay() -> None:
    first = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    logits = StepLogits(tensor(first))
    assert np.array_equal(logits.values, first[:, 0])
    values = logits.values
    logits.resize(2)
    assert logits.values is values
    logits.resize(3)
    assert logits.values.shape == (3, 4)
    assert logits.tensor.shape == (3, 1, 4)


def test_newest_tokens_keep_their_memory_while_rows_stay() -> None:
    newest = StepTokens()
    first = newest.tensor(np.array([3, 4]))
    assert as_array(first).tolist() == [[3], [4]]
    assert newest.tensor(np.array([5, 6])) is first
    assert as_array(first).tolist() == [[5], [6]]
    assert as_array(newest.tensor(np.array([7]))).tolist() == [[7]]
