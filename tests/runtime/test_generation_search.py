"""How the searches use a session, on logits from a table; no model."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import GenerationSettings, Scores, Tokens, beam_search, generate

END, PAD = 2, 1
BASE = GenerationSettings(decoder_start_token_id=0, eos_token_id=END, pad_token_id=PAD, max_new_tokens=6)


class TableSession:
    """Logits depend on the row's input and on its last token: `table` is [inputs, vocabulary, vocabulary].

    Keeps the tokens each row was given, so that a wrong reordering shows, and a log of the calls.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table.astype(np.float32)
        self.inputs = np.arange(len(table))
        self.history = np.zeros((len(table), 0), np.int64)
        self.calls: list[tuple[str, int]] = []

    def step(self, tokens: Tokens) -> Scores:
        assert tokens.dtype == np.int64
        self.calls.append(("step", len(tokens)))
        self.history = np.concatenate([self.history, tokens], axis=1)
        return self.table[self.inputs, tokens[:, -1]]

    def reorder(self, rows: Tokens) -> None:
        self.calls.append(("reorder", len(rows)))
        self.inputs, self.history = self.inputs[rows], self.history[rows]


def random_table(inputs: int, vocabulary: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((inputs, vocabulary, vocabulary)).astype(np.float32)


def countdown_table(lengths: list[int], vocabulary: int = 12) -> np.ndarray:
    """Greedy search emits 3, 4, 5, ... and ends input i after `lengths[i]` tokens, the end included."""
    table = np.zeros((len(lengths), vocabulary, vocabulary))
    for i, length in enumerate(lengths):
        path = [0, *range(3, 3 + length - 1), END]
        for previous, following in pairwise(path):
            table[i, previous, following] = 5
    return table


def test_greedy_pads_after_the_end() -> None:
    found = generate(TableSession(countdown_table([2, 4, 1])), BASE, 3)
    assert found.tolist() == [[0, 3, 2, 1, 1], [0, 3, 4, 5, 2], [0, 2, 1, 1, 1]]


def test_greedy_drops_finished_rows() -> None:
    session = TableSession(countdown_table([1, 1, 1, 4]))
    generate(session, BASE, 4)
    assert session.calls == [("step", 4), ("reorder", 1), ("step", 1), ("step", 1), ("step", 1)]
    assert session.history.tolist() == [[0, 3, 4, 5]]


def test_greedy_keeps_a_few_finished_rows() -> None:
    session = TableSession(countdown_table([1, 4, 4, 4, 4]))
    generate(session, BASE, 5)
    assert ("reorder", 4) not in session.calls
    assert session.history[0].tolist() == [0, END, PAD, PAD]


def test_greedy_takes_the_lowest_of_equal_tokens() -> None:
    table = np.zeros((1, 9, 9))
    table[:, :, [4, 7]] = 1
    assert generate(TableSession(table), BASE.replace(max_new_tokens=2), 1).tolist() == [[0, 4, 4]]


def test_tokens_are_streamed() -> None:
    seen: list[list[int]] = []
    found = generate(
        TableSession(countdown_table([2, 4, 1])),
        BASE,
        3,
        on_tokens=lambda tokens: seen.append(tokens.tolist()),
    )
    assert np.array(seen).T.tolist() == found[:, 1:].tolist()


def test_beams_of_a_finished_input_are_dropped() -> None:
    table = random_table(2)
    table[0, 0, END] = 30
    session = TableSession(table)
    generate(session, BASE.replace(num_beams=2, early_stopping=False, length_penalty=0.0), 2)
    assert session.calls[0] == ("step", 2), "the first step needs one row per input"
    assert session.calls[1][0] == "reorder"
    assert set(session.inputs.tolist()) == {1}


def test_session_rows_follow_the_beams() -> None:
    for seed in range(20):
        session = TableSession(random_table(3, seed=seed))
        settings = BASE.replace(num_beams=3, num_return_sequences=3, eos_token_id=None, max_new_tokens=5)
        found = beam_search(session, np.zeros((3, 1), np.int64), settings)
        # With no end token the best beams are open to the last step, which is not fed back.
        histories = {
            (i, *row) for i, row in zip(session.inputs.tolist(), session.history.tolist(), strict=True)
        }
        for place, row in enumerate(found.sequences.tolist()):
            assert (place // 3, *row[:-1]) in histories


def test_beam_scores_are_sums_of_log_probabilities() -> None:
    table = random_table(2)
    log_probs = table - np.log(np.exp(table).sum(axis=2, keepdims=True))
    settings = BASE.replace(num_beams=4, num_return_sequences=4, length_penalty=0.7)
    found = beam_search(TableSession(table), np.zeros((2, 1), np.int64), settings)
    for place, (row, score) in enumerate(zip(found.sequences, found.scores, strict=True)):
        made = list(row[1:]).index(END) + 1 if END in row[1:] else len(row) - 1
        total = sum(log_probs[place // 4, row[i], row[i + 1]] for i in range(made))
        assert score == pytest.approx(total / made**0.7, rel=1e-5)
    assert (np.diff(found.scores.reshape(2, 4), axis=1) <= 0).all()


def test_wide_beam_search_finds_the_best_sequence() -> None:
    """As many beams as there are prefixes: nothing can be lost."""
    vocabulary, length = 5, 3
    table = random_table(1, vocabulary, seed=5)[0]
    log_probs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    prefixes = np.stack(np.meshgrid(*[np.arange(vocabulary)] * length, indexing="ij"), axis=-1).reshape(
        -1, length
    )
    path = np.concatenate([np.zeros((len(prefixes), 1), np.int64), prefixes], axis=1)
    best = path[log_probs[path[:, :-1], path[:, 1:]].sum(axis=1).argmax()]
    settings = GenerationSettings(decoder_start_token_id=0, num_beams=25, max_new_tokens=length)
    assert generate(TableSession(table[None]), settings, 1)[0].tolist() == best.tolist()


def test_result_does_not_depend_on_the_batch() -> None:
    table = random_table(6, seed=3)
    settings = BASE.replace(num_beams=3, length_penalty=1.5, max_new_tokens=9)
    together = generate(TableSession(table), settings, 6)
    for i in range(6):
        alone = generate(TableSession(table[i : i + 1]), settings, 1)[0]
        assert together[i, : len(alone)].tolist() == alone.tolist()
        assert (together[i, len(alone) :] == PAD).all()


class ReadOnlySession(TableSession):
    """Returns memory that the search may not write to."""

    def step(self, tokens: Tokens) -> Scores:
        logits = super().step(tokens)
        logits.flags.writeable = False
        return logits


@pytest.mark.parametrize("num_beams", [1, 3])
def test_read_only_logits(num_beams: int) -> None:
    table, settings = random_table(2), BASE.replace(num_beams=num_beams, suppress_tokens=[4])
    expected = generate(TableSession(table), settings, 2)
    assert generate(ReadOnlySession(table), settings, 2).tolist() == expected.tolist()


class BrokenSession(TableSession):
    """Passes every result through a function."""

    def __init__(self, change: Any) -> None:
        super().__init__(random_table(2))
        self.change = change

    def step(self, tokens: Tokens) -> Scores:
        return self.change(super().step(tokens))


def _with_nan(logits: np.ndarray) -> np.ndarray:
    logits[1, 5] = np.nan
    return logits


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with_nan, "after 1 tokens hold NaN"),
        (lambda logits: logits[:1], r"shape \[1, 12\]: expected float32 \[2, vocabulary\]"),
        (lambda logits: logits[:, None], r"shape \[2, 1, 12\]"),
        (lambda logits: logits.astype(np.float64), "float64 logits"),
    ],
    ids=["nan", "rows", "dimensions", "type"],
)
def test_broken_sessions(num_beams: int, change: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        generate(BrokenSession(change), BASE.replace(num_beams=num_beams), 2)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"forced_bos_token_id": 12}, {}, "forced_bos_token_id: token 12 is outside the vocabulary of 12"),
        ({"forced_eos_token_id": 40}, {}, "forced_eos_token_id: token 40"),
        ({"bad_words_ids": [[3, 99]]}, {}, "bad_words_ids: token 99"),
        ({"sequence_bias": [[[99], 1.0]]}, {}, "sequence_bias: token 99"),
        ({"encoder_no_repeat_ngram_size": 2}, {}, "encoder_no_repeat_ngram_size needs .* encoder_input_ids"),
        ({"encoder_repetition_penalty": 2.0}, {}, "encoder_repetition_penalty needs"),
        ({}, {"encoder_input_ids": [[1], [2], [3]]}, "encoder_input_ids has 3 rows"),
        (
            {"max_new_tokens": None, "max_length": 3},
            {"decoder_input_ids": [[0, 3, 4]] * 2},
            "prompt has 3 tokens",
        ),
        ({"num_beams": 2}, {"on_tokens": print}, "on_tokens needs num_beams=1"),
        ({"num_beams": 2, "eos_token_id": list(range(12))}, {}, "num_beams=2 is too many"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        generate(TableSession(random_table(2)), BASE.replace(**changes), 2, **arguments)


def test_ids_outside_the_output_vocabulary_are_harmless() -> None:
    """An embedding may have more rows than the output has logits; and a banned id may not exist."""
    settings = BASE.replace(
        suppress_tokens=[50],
        eos_token_id=[2, 60],
        min_new_tokens=2,
        no_repeat_ngram_size=1,
        repetition_penalty=1.5,
    )
    table = np.concatenate([random_table(1), np.zeros((1, 30, 12))], axis=1)
    for num_beams in (1, 2):
        found = generate(
            TableSession(table), settings.replace(num_beams=num_beams), 1, decoder_input_ids=[[0, 40]]
        )
        assert found[0, :2].tolist() == [0, 40]
        assert len(set(found[0].tolist())) == found.shape[1]


def test_everything_banned_is_an_error_with_renormalization() -> None:
    settings = BASE.replace(suppress_tokens=list(range(12)), renormalize_logits=True, num_beams=2)
    with pytest.raises(GenerationError, match="every token is banned"):
        generate(TableSession(random_table(1)), settings, 1)


class TimedSession(TableSession):
    """Notes the processor time between the end of one step and the beginning of the next."""

    def __init__(self, inputs: int) -> None:
        super().__init__(np.zeros((inputs, 1, 1)))
        self.logits = np.random.default_rng(0).standard_normal((8, 50265)).astype(np.float32)
        self.gaps: list[float] = []
        self.end = 0.0

    def step(self, tokens: Tokens) -> Scores:
        if self.end:
            self.gaps.append(time.thread_time() - self.end)
        logits = np.roll(self.logits, len(self.gaps), axis=0)[: len(tokens)]
        self.end = time.thread_time()
        return logits


@pytest.mark.parametrize(("num_beams", "milliseconds"), [(1, 0.2), (4, 3.0)])
def test_search_is_quick_beside_a_step(num_beams: int, milliseconds: float) -> None:
    """10 to 15 times what it takes on an idle machine: only a full sort or a loop over tokens is slower."""
    session = TimedSession(1)
    generate(session, BASE.replace(num_beams=num_beams, max_new_tokens=60, min_new_tokens=60), 1)
    assert np.median(session.gaps) * 1e3 < milliseconds


def test_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, tbt_compile.runtime.generation\n"
        "assert not {'torch', 'transformers', 'tvm'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
