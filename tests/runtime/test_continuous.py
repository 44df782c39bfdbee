"""Continuous batching: an output is what the model writes for that request alone, whoever comes and goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from compiled_tools import Case
from models import EOS, VOCABULARY, gpt2, llama

from tbt_compile.errors import GenerationError, TbtError
from tbt_compile.runtime.continuous import Engine, FullError
from tbt_compile.runtime.generation import GenerationSettings
from tbt_compile.runtime.served_model import ServedModel
from tbt_compile.runtime.writing import Writing

SETTINGS: tuple[dict[str, Any], ...] = (
    {"max_new_tokens": 90},
    {"max_new_tokens": 1},
    {"do_sample": True, "temperature": 2.0, "seed": 7, "max_new_tokens": 40},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "max_new_tokens": 30},
    {"eos_token_id": [EOS, *range(40, 60)], "max_new_tokens": 70},
    {"forced_eos_token_id": EOS, "min_new_tokens": 5, "max_new_tokens": 9},
)


class Output:
    """Collects what an engine reports of one output."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended: Any = None
        self.done = threading.Event()

    def end(self, how: Any) -> None:
        assert self.ended is None, "reported once"
        self.ended = how
        self.done.set()

    def wait(self) -> list[int]:
        assert self.done.wait(60)
        if isinstance(self.ended, TbtError):
            raise self.ended
        return self.tokens


def settings_of(model: Any, changes: dict[str, Any]) -> GenerationSettings:
    return model._settings.replace(**{"num_beams": 1, "early_stopping": False, **changes})


def start(engine: Engine, model: Any, source: list[int], changes: dict[str, Any], **hooks: Any) -> Output:
    output = Output()
    on_token = hooks.get("on_token", output.tokens.append)
    writing = engine.prepare(source, settings_of(model, changes), 0, on_token, output.end)
    engine.submit([writing])
    output.writing = writing  # type: ignore[attr-defined]
    return output


def alone(model: Any, source: list[int], changes: dict[str, Any]) -> list[int]:
    whole = model.generate(
        [source], [[1] * len(source)], **{"num_beams": 1, "early_stopping": False, **changes}
    )
    return whole[0, 1 if model.is_encoder_decoder else len(source) :].tolist()


def sources(count: int, longest: int) -> list[list[int]]:
    generator = np.random.default_rng(count)
    return [generator.integers(3, VOCABULARY, generator.integers(1, longest)).tolist() for _ in range(count)]


@pytest.fixture(scope="module", params=["llama 2-2-2", "llama 1-1-8", "llama 2-2-32", "gpt2 8-8-8"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, recipe = request.param.split()
    model = {"llama": llama, "gpt2": gpt2}[family](layers=1, max_position_embeddings=256)
    return Case.shared(model, recipe, f"continuous-{family}-{recipe}", tmp_path_factory)


@pytest.fixture
def engine(decoder: Case) -> Iterator[Engine]:
    made = Engine(ServedModel(decoder.compiled), most_rows=5)
    yield made
    made.stop(finish=False)


def test_requests_that_come_and_go_change_nothing(decoder: Case, engine: Engine) -> None:
    """A request is submitted whenever the running ones have written some tokens."""
    rows = sources(18, 70)
    waiting = [(row, SETTINGS[number % len(SETTINGS)]) for number, row in enumerate(rows)]
    outputs: list[Output] = []
    lock = threading.Lock()

    def submit() -> None:
        with lock:
            if not waiting:
                return
            source, changes = waiting.pop(0)
        outputs.append(Output())
        output = outputs[-1]

        def on_token(token: int) -> None:
            output.tokens.append(token)
            if len(output.tokens) in (1, 7, 25):
                submit()

        writing = engine.prepare(
            source,
            settings_of(decoder.compiled, changes),
            0,
            on_token,
            lambda how: (output.end(how), submit()),
        )
        output.expected = (source, changes)  # type: ignore[attr-defined]
        engine.submit([writing])

    submit()
    finished = 0
    while finished < len(outputs):
        outputs[finished].wait()
        finished += 1
    assert len(outputs) == len(rows)
    for output in outputs:
        source, changes = output.expected  # type: ignore[attr-defined]
        assert output.tokens == alone(decoder.compiled, source, changes)
    assert (engine.running, engine.waiting) == (0, 0)


def test_a_newcomer_is_encoded_at_its_own_length(
    decoder: Case, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, opened = [], ServedModel.open
    joining = threading.Event()

    def spy(model: ServedModel, ids: Any, mask: Any) -> Any:
        widths.append(ids.shape)
        return opened(model, ids, mask)

    monkeypatch.setattr(ServedModel, "open", spy)
    long = list(range(3, 40))
    tokens: list[int] = []

    def on_token(token: int) -> None:
        tokens.append(token)
        joining.set()

    endless = {"max_new_tokens": 100, "eos_token_id": []}
    first = start(engine, decoder.compiled, long, endless, on_token=on_token)
    assert joining.wait(60)
    second = start(engine, decoder.compiled, [5, 6, 7], {"max_new_tokens": 9})
    assert second.wait() == alone(decoder.compiled, [5, 6, 7], {"max_new_tokens": 9})
    first.wait()
    assert tokens == alone(decoder.compiled, long, endless)
    assert widths[:2] == [(1, 37), (1, 3)]


def test_encoder_decoders_take_turns(case: Case) -> None:
    engine = Engine(ServedModel(case.compiled), most_rows=4)
    rows = sources(10, 60)
    outputs = [start(engine, case.compiled, row, SETTINGS[n % 6]) for n, row in enumerate(rows)]
    for number, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        assert output.wait() == alone(case.compiled, row, SETTINGS[number % 6])
    engine.stop()


def test_reasons_and_cancelling(decoder: Case, engine: Engine) -> None:
    model = decoder.compiled
    assert start(engine, model, [5, 6], {"max_new_tokens": 3, "eos_token_id": []}).wait()
    ended = start(engine, model, [5, 6], {"max_new_tokens": 50, "eos_token_id": list(range(VOCABULARY))})
    assert len(ended.wait()) == 1
    assert ended.ended == "end"
    endless = {"max_new_tokens": 100, "eos_token_id": []}
    output = start(engine, model, [5, 6], endless)
    output.writing.cancelled = True  # type: ignore[attr-defined]
    output.wait()
    assert output.ended == "cancelled"
    assert len(output.tokens) < 100


def test_an_error_ends_one_output(decoder: Case, engine: Engine) -> None:
    model = decoder.compiled
    good = start(engine, model, [5, 6, 7], {"max_new_tokens": 60})
    bad = start(
        engine, model, [8, 9], {"do_sample": True, "suppress_tokens": range(VOCABULARY), "max_new_tokens": 20}
    )
    with pytest.raises(GenerationError, match="there is no distribution to sample from"):
        bad.wait()
    assert good.wait() == alone(model, [5, 6, 7], {"max_new_tokens": 60})


def test_a_step_that_fails_ends_its_outputs_and_no_later_ones(
    decoder: Case, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder.compiled
    with monkeypatch.context() as patch:
        patch.setattr(ServedModel, "open", lambda *_: 1 / 0)
        with pytest.raises(GenerationError, match="ZeroDivisionError"):
            start(engine, model, [5, 6], {"max_new_tokens": 4}).wait()
    assert start(engine, model, [5, 6], {"max_new_tokens": 4}).wait() == alone(
        model, [5, 6], {"max_new_tokens": 4}
    )


def test_an_output_that_ended_is_not_told_of_a_step_that_fails_after_it(
    decoder: Case, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outputs take a step: one ends with it, and then the step fails for both."""
    model, take = decoder.compiled, Writing.take

    def failing(writing: Writing, scores: Any) -> bool:
        going_on = take(writing, scores)
        if not going_on:
            raise ZeroDivisionError
        return going_on

    monkeypatch.setattr(Writing, "take", failing)
    outputs = [Output(), Output()]
    settings = [settings_of(model, {"max_new_tokens": most, "eos_token_id": []}) for most in (3, 30)]
    engine.submit(
        [
            engine.prepare([5, 6], each, 0, output.tokens.append, output.end)
            for each, output in zip(settings, outputs, strict=True)
        ]
    )
    assert len(outputs[0].wait()) == 3
    assert outputs[0].ended == "length"
    with pytest.raises(GenerationError, match="ZeroDivisionError"):
        outputs[1].wait()


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ([], {}, "input_ids has shape"),
        ([VOCABULARY], {}, "input_ids holds"),
        ([5], {"max_new_tokens": 10**6}, "positions: lower max_new_tokens"),
        ([5], {"num_beams": 2}, "num_beams=2: expected 1"),
        ([5], {"forced_bos_token_id": VOCABULARY}, "is outside the vocabulary"),
    ],
)
def test_requests_that_do_not_fit(
    decoder: Case, engine: Engine, source: list[int], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        start(engine, decoder.compiled, source, changes)
    assert engine.waiting == 0


def test_a_full_queue_and_a_stopping_engine(decoder: Case) -> None:
    model = decoder.compiled
    engine = Engine(ServedModel(model), most_rows=1, most_waiting=2)
    held, go_on = threading.Event(), threading.Event()

    def hold(_token: int) -> None:
        held.set()
        go_on.wait(30)

    first = start(engine, model, [5], {"max_new_tokens": 2, "eos_token_id": []}, on_token=hold)
    assert held.wait(30)
    others = [start(engine, model, [6], {"max_new_tokens": 2}) for _ in range(2)]
    with pytest.raises(FullError, match="2 outputs are waiting, and at most 2 may"):
        start(engine, model, [7], {"max_new_tokens": 2})
    go_on.set()
    engine.stop()
    assert first.ended == "length"
    assert all(output.wait() == alone(model, [6], {"max_new_tokens": 2}) for output in others)
    with pytest.raises(FullError, match="shutting down"):
        start(engine, model, [5], {})
