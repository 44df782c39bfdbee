"""Kept prompts: the same bits as without, bounded memory, the least recently used out first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled_tools import Case
from models import VOCABULARY, bart, gpt2, llama

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.caches import BLOCK, FloatCache, GrowingCache
from tbt_compile.runtime.continuous import Engine
from tbt_compile.runtime.generation import GenerationSettings
from tbt_compile.runtime.prompt_cache import PromptCache
from tbt_compile.runtime.served_model import ServedModel
from tbt_compile.runtime.tvm_runtime import as_array, tensor

KINDS = ["llama 2-2-2", "llama 1-1-1", "llama 1-1-8", "llama 2-2-32", "gpt2 8-8-8", "gpt2 2-2-2"]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, recipe = request.param.split()
    model = {"llama": llama, "gpt2": gpt2}[family](layers=2, max_position_embeddings=512)
    return Case.shared(model, recipe, f"kept-{family}-{recipe}", tmp_path_factory)


def drawn(random: np.random.Generator, length: int) -> list[int]:
    return random.integers(3, VOCABULARY, length).tolist()


def padded(prompts: list[list[int]], more: int = 0) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, prompts)) + more
    ids, mask = np.full((2, len(prompts), width), 0)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    return ids, mask


def logits(model: Any, prompts: list[list[int]], more: int = 0, steps: int = 3) -> list[np.ndarray]:
    """The logits of prompts and of some steps after them."""
    ids, mask = padded(prompts, more)
    session = model.session(ids, mask)
    found = [session.step(ids)]
    for _ in range(steps):
        found.append(session.step(found[-1].argmax(axis=1)[:, None]))
    return found


def test_every_bit_is_as_without(case: Case) -> None:
    """Prompts share random prefixes of random lengths, alone and in batches with padding."""
    random = np.random.default_rng(3)
    plain, keeping = case.loaded(), case.loaded()
    keeping.keep_prompts(2**26)
    told = [drawn(random, 400)]
    for number in range(24):
        prompts = []
        for _ in range(1 + number % 3):
            before = told[random.integers(len(told))]
            prefix = before[: random.integers(0, len(before) + 1)]
            prompts.append((prefix + drawn(random, int(random.integers(1, 90))))[:480])
        told += prompts
        more = int(random.integers(0, 70)) if number % 2 else 0
        for expected, found in zip(logits(plain, prompts, more), logits(keeping, prompts, more), strict=True):
            np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
    assert keeping.prompts is not None
    assert keeping.prompts.hits > 5
    assert 0 < keeping.prompts.reused < keeping.prompts.tokens


def test_the_same_prompt_again_reads_its_last_block_only(case: Case) -> None:
    model = case.loaded()
    model.keep_prompts(2**26)
    for length, reused in ((64, 0), (65, 64), (128, 64), (200, 192)):
        prompt = drawn(np.random.default_rng(length), length)
        first = model.generate([prompt], max_new_tokens=5)
        before = model.prompts.reused
        np.testing.assert_array_equal(model.generate([prompt], max_new_tokens=5), first)
        assert model.prompts.reused - before == reused
    model.keep_prompts(0)
    assert model.prompts is None


def test_beams_and_batches_of_an_engine(case: Case) -> None:
    random = np.random.default_rng(5)
    plain, keeping = case.loaded(), case.loaded()
    keeping.keep_prompts(2**26)
    system = drawn(random, 150)
    prompts = [system + drawn(random, int(random.integers(1, 60))) for _ in range(12)]
    expected = [plain.generate([each], max_new_tokens=12)[0, len(each) :].tolist() for each in prompts]
    beams = [plain.generate([each], max_new_tokens=6, num_beams=3) for each in prompts[:3]]
    engine = Engine(ServedModel(keeping), most_rows=4)
    written: list[list[int]] = [[] for _ in prompts]
    settings = GenerationSettings.from_dict(keeping.description["generation"]).replace(
        num_beams=1, early_stopping=False, max_new_tokens=12
    )
    ends: list[Any] = []
    for prompt, tokens in zip(prompts, written, strict=True):
        engine.submit([engine.prepare(prompt, settings, 0, tokens.append, ends.append)])
    engine.stop()
    assert set(ends) <= {"end", "length"}
    ends_of = settings.eos_token_id
    assert written == [
        row[: next((n + 1 for n, token in enumerate(row) if token in ends_of), len(row))] for row in expected
    ]
    assert keeping.prompts.hits >= 8
    for prompt, expected_beams in zip(prompts[:3], beams, strict=True):
        found = keeping.generate([prompt], max_new_tokens=6, num_beams=3)
        np.testing.assert_array_equal(found, expected_beams)


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    cache, tokens = PromptCache(10 * 800), np.arange(64 * 40)

    def keep(start: int, blocks: int) -> None:
        ids = tokens[start * BLOCK : (start + blocks) * BLOCK]
        cache.add(ids, lambda first: [np.zeros(100, np.int64)])

    def known(start: int, blocks: int) -> int:
        return cache.known(np.append(tokens[start * BLOCK : (start + blocks) * BLOCK], 1)) // BLOCK

    keep(0, 6)
    keep(10, 4)
    assert (known(0, 6), known(10, 4), cache.bytes) == (6, 4, 8000)
    assert len(cache.find(np.append(tokens[: 2 * BLOCK], 1))) == 2  # the first two are new again
    keep(20, 3)
    assert (known(0, 6), known(10, 4), known(20, 3)) == (3, 4, 3)
    keep(30, 10)
    assert (known(0, 6), known(10, 4), known(20, 3), known(30, 10)) == (0, 0, 0, 10)
    keep(0, 12)
    assert known(0, 12) == 10
    assert cache.bytes == 8000


@pytest.mark.parametrize("shape", [(2, 1, 3, 8), (2, 1, 3, 2, 4)])
def test_blocks_at_any_place(shape: tuple[int, ...]) -> None:
    """A packed cache that is cut to blocks and put together elsewhere; values have 64 tokens in a word."""
    random = np.random.default_rng(0)
    layers, batch, heads, *row = shape
    words = len(row) == 2
    length = 330
    rows = -(-length // 64) if words else length
    whole = random.integers(0, 2**63, (layers, batch, heads, rows, *row), np.uint64)
    if words:
        whole[:, :, :, -1] &= np.uint64((1 << length % 64) - 1)
    cache = GrowingCache([tensor(layer) for layer in whole], length)

    def bits(array: np.ndarray) -> np.ndarray:
        """One row per token."""
        if not words:
            return array
        apart = (array[:, :, :, :, None] >> np.arange(64, dtype=np.uint64)[:, None, None]) & np.uint64(1)
        return apart.reshape(layers, -1, heads, array.shape[3] * 64, *row)

    for before, start, tokens in ((0, 0, 320), (17, 0, 300), (100, 64, 164), (64, 0, 65), (5, 3, 70)):
        blocks = [cache.block(0, place) for place in range(start, length - 64, 64)]
        made = GrowingCache.of_blocks([(before, blocks)], tokens)
        found = bits(as_array(made.tensor()))
        np.testing.assert_array_equal(found[:, :, :, :before], 0)
        np.testing.assert_array_equal(
            found[:, :, :, before:tokens], bits(whole)[:, :, :, start : start + tokens - before]
        )
        np.testing.assert_array_equal(found[:, :, :, tokens:], 0)


def test_blocks_of_floats() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 200, 4)).astype(np.float32)
    cache = FloatCache(tensor(values))
    blocks = [cache.block(1, place) for place in (0, 64)]
    made = as_array(FloatCache.of_blocks([(7, blocks), (0, blocks[:1])], 100).tensor())
    np.testing.assert_array_equal(made[0, :, 7:100], values[1, :, :93])
    np.testing.assert_array_equal(made[1, :, :64], values[1, :, :64])
    assert not made[0, :, :7].any() and not made[1, :, 64:].any()


def test_models_that_cannot_keep_prompts(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Case.shared(bart(layers=1), "2-2-2", "kept-bart", tmp_path_factory).compiled
    assert not other.can_keep_prompts
    with pytest.raises(GenerationError, match="cannot keep prompts: expected a decoder-only model"):
        other.keep_prompts(2**20)
    other.keep_prompts(0)


def test_prompts_with_holes_are_neither_kept_nor_found(case: Case) -> None:
    """A token that a mask leaves out changes the keys and values of those behind it."""
    random = np.random.default_rng(11)
    ids, whole = np.array([drawn(random, 130)]), np.ones((1, 130), np.int64)
    hole = whole.copy()
    hole[:, 10:40] = 0
    padding = np.array([[0] * 7 + ids[0, :-7].tolist()])
    plain = case.loaded()
    masks = {"whole": whole, "hole": hole}
    expected = {name: plain.generate(ids, mask, max_new_tokens=6) for name, mask in masks.items()}
    beside = plain.generate(padding, padding != 0, max_new_tokens=6)
    for order in (("hole", "whole", "hole"), ("whole", "hole", "whole")):
        keeping = case.loaded()
        keeping.keep_prompts(2**26)
        for name in order:
            found = keeping.generate(ids, masks[name], max_new_tokens=6)
            np.testing.assert_array_equal(found, expected[name], err_msg=name)
        np.testing.assert_array_equal(keeping.generate(padding, padding != 0, max_new_tokens=6), beside)
        both = keeping.generate(np.repeat(ids, 2, 0), np.concatenate([whole, hole]), max_new_tokens=6)
        for row, alone in zip(both, expected.values(), strict=True):
            np.testing.assert_array_equal(row[: alone.shape[1]], alone[0])


@pytest.mark.parametrize("most_bytes", [-1, "a", float("nan"), 1.5, True])
def test_bytes_that_are_no_number_of_bytes(case: Case, most_bytes: Any) -> None:
    with pytest.raises(GenerationError, match="^most_bytes=.*: expected an integer"):
        case.loaded().keep_prompts(most_bytes)
