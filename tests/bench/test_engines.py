"""The engines that are compared: every one does the same work, in batches and with beams."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from tbt_compile.bench.engines import ENGINES, check_counts, engines_for, get_engine
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import SHAPES, Shape, get_shape, padded, random_model, source_texts

WORK = [(1, 1, False), (3, 1, True), (1, 2, False), (3, 2, True)]


@pytest.fixture(scope="module", params=list(ENGINES))
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """What an engine has built for a very small model."""
    engine = get_engine(request.param)
    with pytest.MonkeyPatch.context() as patch:
        family = "bart" if request.param in engines_for(get_shape("tiny")) else "llama"
        one = Shape("one-layer", family, 200, 256, 1, 2, 256, positions=64, key_value_heads=1)
        patch.setitem(SHAPES, "one-layer", one)
        built = Job(request.param, "", "one-layer", 1, 24, 3, "host", str(tmp_path_factory.mktemp("engine")))
        if reason := engine.available(built):
            pytest.skip(reason)
        if request.param == "tbt":
            yield request.getfixturevalue("compiled_job")
            return
        engine.build(built)
        yield built


def test_every_engine_generates_for_batches_and_beams(job: Job) -> None:
    for batch, beams, mixed in WORK:
        work = dataclasses.replace(job, batch=batch, beams=beams, mixed=mixed)
        if reason := get_engine(job.engine).available(work):
            assert reason == "it is measured on one text, greedily"
            continue
        runner = get_engine(job.engine).load(work)
        assert runner.size_bytes > 10_000
        for count in (1, 4):
            runner.generate(count)  # raises where there are more or fewer tokens


@pytest.mark.parametrize("job", ["llama.cpp Q8_0"], indirect=True)
def test_llama_cpp_computes_the_same_model(job: Job) -> None:
    runner = get_engine(job.engine).load(job)
    runner.generate(1)
    shape = get_shape(job.shape)
    prompt = torch.tensor([source_texts(shape, job.source_length, 1, False)[0]])
    with torch.no_grad():
        expected = random_model(shape)(input_ids=prompt).logits[0, -1]
    found = torch.from_numpy(runner._logits().copy())
    assert torch.corrcoef(torch.stack([expected, found]))[0, 1] > 0.999


@pytest.mark.parametrize(("batch", "beams", "mixed"), WORK)
def test_the_pytorch_engine_takes_a_step_for_every_token(batch: int, beams: int, mixed: bool) -> None:
    job = Job("torch fp32", "", "tiny", 1, 24, 5, "host", "", batch=batch, beams=beams, mixed=mixed)
    runner = get_engine(job.engine).load(job)
    rows: list[int] = []
    runner.model.register_forward_hook(lambda _module, _inputs, output: rows.append(len(output.logits)))
    runner.generate(5)
    assert rows == [batch * beams] * 5


def test_too_few_tokens_or_texts_are_an_error() -> None:
    check_counts([4, 4], texts=2, count=4)
    for made in ([4, 3], [4], []):
        with pytest.raises(RuntimeError, match="expected 4 tokens for each of 2 texts"):
            check_counts(made, texts=2, count=4)


def test_texts_of_a_batch_differ_and_mixed_ones_differ_in_length() -> None:
    shape = get_shape("tiny")
    equal = source_texts(shape, 40, 8, mixed=False)
    assert [len(text) for text in equal] == [40] * 8
    assert len({tuple(text) for text in equal}) == 8
    mixed = source_texts(shape, 40, 50, mixed=True)
    assert mixed == source_texts(shape, 40, 50, mixed=True)
    assert 10 <= min(map(len, mixed)) < 20 < 30 < max(map(len, mixed)) <= 40
    ids, mask = padded(mixed)
    assert [len(row) for row in ids] == [max(map(len, mixed))] * 50
    assert [sum(row) for row in mask] == [len(text) for text in mixed]
