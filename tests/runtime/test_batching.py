"""Many sources at once: the results of each alone, whatever the batches, the workers and the threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from compiled_tools import Case
from datasets import Dataset
from models import EOS, LONG_POSITIONS, PAD, VOCABULARY

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.batching import cut_after_end, pack
from tbt_compile.runtime.seq2seq import Seq2SeqSession

_RANDOM = np.random.default_rng(7)
SOURCES = [_RANDOM.integers(3, VOCABULARY, length).tolist() for length in (5, 40, 1, 17, 5, 64, 65, 9, 5, 30)]


def alone(case: Case, **settings: Any) -> list[np.ndarray[Any, Any]]:
    return [row for source in SOURCES for row in case.compiled.generate([source], **settings)]


def same(found: list[np.ndarray[Any, Any]], expected: list[np.ndarray[Any, Any]]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1, "max_new_tokens": 12},
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 1, "eos_token_id": [EOS, 60, 61, 62, 63]},
        # Their rules look at padding tokens too.
        {"num_beams": 2, "encoder_repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2},
    ],
)
@pytest.mark.usefixtures("two_threads")
def test_batches_workers_and_threads_change_nothing(case: Case, settings: dict[str, Any]) -> None:
    expected = alone(case, **settings)
    for options in (
        {},
        {"batch_size": 3, "num_workers": 3},
        {"batch_tokens": 70, "num_workers": 2, "num_threads": 2},
        {"batch_size": 1, "num_threads": 2},
    ):
        assert same(case.compiled.generate_many(SOURCES, **options, **settings), expected), options


def test_several_results_for_each_source(case: Case) -> None:
    settings = {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": None, "max_new_tokens": 5}
    found = case.compiled.generate_many(SOURCES, num_workers=2, batch_size=2, **settings)
    assert same(found, alone(case, **settings))


def test_rows_of_a_data_set(case: Case) -> None:
    longest = max(map(len, SOURCES))
    rows = Dataset.from_dict(
        {
            "input_ids": [[*source, *[PAD] * (longest - len(source))] for source in SOURCES],
            "attention_mask": [[1] * len(source) + [0] * (longest - len(source)) for source in SOURCES],
            "text": ["..."] * len(SOURCES),
        }
    )
    expected = case.compiled.generate_many(SOURCES)
    assert same(case.compiled.generate_many(rows), expected)
    assert same(case.compiled.generate_many(rows.with_format("numpy")), expected)
    assert same(case.compiled.generate_many(np.array(source) for source in SOURCES), expected)
    assert case.compiled.generate_many([]) == []


def test_progress_counts_sources(case: Case) -> None:
    seen: list[tuple[int, int]] = []
    case.compiled.generate_many(SOURCES, batch_size=4, progress=lambda *counts: seen.append(counts))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_every_worker_gets_a_share(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    gate = threading.Barrier(4, timeout=60)
    opened = case.compiled._open

    def watched(*arguments: Any) -> Any:
        names.add(threading.current_thread().name)
        gate.wait()  # only passed when four batches are under way at the same time
        return opened(*arguments)

    monkeypatch.setattr(case.compiled, "_open", watched)
    case.compiled.generate_many(SOURCES[:8], batch_size=8, num_workers=4)
    assert len(names) == 4


def test_batches_hold_what_they_may() -> None:
    lengths = [_RANDOM.integers(1, 50) for _ in range(200)]
    batches = pack(lengths, batch_size=16, batch_tokens=300)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert len(batch) <= 16
        assert len(batch) * max(lengths[index] for index in batch) <= 300
    assert sum(len(batch) * lengths[batch[0]] for batch in batches) < 1.1 * sum(lengths)  # little padding
    assert pack([400, 2], 16, 300) == [[0], [1]]
    equal = pack(lengths, 16, 300, same_length=True)
    assert all(len({lengths[index] for index in batch}) == 1 for batch in equal)


def test_a_row_is_cut_after_its_first_end() -> None:
    assert cut_after_end([2, 5, 9, 1, 2], [2, 9]) == [2, 5, 9]
    assert cut_after_end([2, 5, 1, 1], [2]) == [2, 5, 1, 1]
    assert cut_after_end([2, 5, 7], []) == [2, 5, 7]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([[3], [3, VOCABULARY]], "source 1: input_ids holds 3 to 96"),
        ([[3], []], r"source 1: input_ids has shape \[1, 0\]"),
        ([[3] * (LONG_POSITIONS + 1)], "source 0: the source has 151 tokens"),
        (["a text"], "source 0: input_ids has shape .* type <U6: expected integers"),
        ([[[3], [4, 5]]], "source 0: "),
        ([{"text": "a"}], "source 0: expected input_ids, got the fields text"),
        ([{"input_ids": [1, 3, 4], "attention_mask": [0, 1, 1]}], "source 0: attention_mask has a 0 before"),
        ([{"input_ids": [5, 6], "attention_mask": [1]}], r"source 0: attention_mask has shape \[1\]"),
        (
            [{"input_ids": [5, 6], "attention_mask": [0.5, 0.5]}],
            "source 0: attention_mask holds other values",
        ),
        ([{"input_ids": [5, 6], "attention_mask": [1, 2]}], "source 0: attention_mask holds other values"),
        ([{"input_ids": [5, 6], "attention_mask": "11"}], r"source 0: attention_mask has shape \[\]"),
        ([{"input_ids": 5}], "source 0: input_ids has shape"),
        ([None], "source 0: input_ids has shape"),
    ],
)
def test_sources_that_do_not_fit(case: Case, sources: list[Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        case.compiled.generate_many(sources)


def test_sources_with_masks(case: Case) -> None:
    ids = [5, 6, 7]
    masked = {"input_ids": [*ids, 0, 0], "attention_mask": [1, 1, 1, 0, 0]}
    found = case.compiled.generate_many([ids, {"input_ids": ids, "attention_mask": None}, masked])
    assert same(found, case.compiled.generate_many([ids] * 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected an integer of at least 1"),
        ({"batch_tokens": 1.5}, "batch_tokens=1.5: expected an integer"),
        ({"num_workers": 0}, "num_workers=0: expected"),
        ({"num_threads": 0}, "num_threads=0: expected"),
        ({"do_sample": True, "num_beams": 2}, "beams are not sampled"),
        ({"decoder_start_token_id": [2, 2]}, "one id per source"),
        ({"max_new_tokens": 200, "min_new_tokens": 200}, "more than the model's 150 positions"),
    ],
)
def test_settings_that_do_not_fit(case: Case, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        case.compiled.generate_many(SOURCES[:2], num_workers=settings.pop("num_workers", 2), **settings)
    assert len(case.compiled.generate_many(SOURCES[:2])) == 2


LONG = {"num_beams": 1, "min_new_tokens": 140, "max_new_tokens": 140}


def test_an_interrupt_stops_a_generation_and_leaves_the_model_whole(case: Case) -> None:
    expected = case.compiled.generate(SOURCES[:1], **LONG)
    steps = []

    def interrupt(tokens: Any) -> None:
        steps.append(tokens)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        case.compiled.generate(SOURCES[:1], on_tokens=interrupt, **LONG)
    assert len(steps) < 6
    assert np.array_equal(case.compiled.generate(SOURCES[:1], **LONG), expected)


def test_an_interrupt_stops_the_workers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    many, sent, calls = SOURCES[:2] * 500, [], []
    step = Seq2SeqSession.step
    monkeypatch.setattr(Seq2SeqSession, "step", lambda *args: calls.append(args) or step(*args))
    expected = case.compiled.generate_many(SOURCES[:2], **LONG)

    def interrupt() -> None:
        sent.append(len(calls))
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        case.compiled.generate_many(many, num_workers=2, batch_size=2, **LONG)
    stopped = len(calls)
    assert stopped - sent[0] < 20_000  # of 70,000: other programs may keep this thread from noticing
    timer.join()
    time.sleep(0.5)
    assert len(calls) <= stopped + 2  # the step that each worker was in
    assert same(case.compiled.generate_many(SOURCES[:2], **LONG), expected)
