"""Models and threads beside each other: each gets what it gets alone, and leaves the process as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
from compiled_tools import Case, sources
from models import PAD


def in_threads(*works: Any) -> list[Any]:
    """Results of functions that run at the same time."""
    results: list[Any] = [None] * len(works)

    def run(place: int) -> None:
        results[place] = works[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_one_model_in_several_threads(case: Case) -> None:
    batches = [sources(PAD, rows, longest) for rows, longest in ((1, 30), (4, 9), (2, 64), (3, 5))]
    settings = {"min_new_tokens": 20, "max_new_tokens": 20}
    expected = [case.compiled.generate(*batch, **settings) for batch in batches]

    def work(place: int) -> list[Any]:
        return [case.compiled.generate(*batches[place], **settings) for _ in range(10)]

    for place, found in enumerate(in_threads(*(lambda place=place: work(place) for place in range(4)))):
        assert len(found) == 10
        assert all(np.array_equal(tokens, expected[place]) for tokens in found)


def test_a_session_may_go_from_thread_to_thread(case: Case) -> None:
    ids, mask = sources(PAD)
    tokens = np.full((len(ids), 1), 7)
    here, elsewhere = case.compiled.session(ids, mask), case.compiled.session(ids, mask)
    for _ in range(3):
        expected = here.step(tokens)
        assert np.array_equal(in_threads(lambda: elsewhere.step(tokens))[0], expected)


def test_a_model_first_used_by_several_threads(case: Case) -> None:
    model = case.loaded()
    model._bound_library = None  # as lowered: nothing is bound before the first use
    ids, mask = sources(PAD)
    expected = case.compiled.generate(ids, mask)
    for found in in_threads(*[lambda: model.generate(ids, mask)] * 4):
        assert np.array_equal(found, expected)


def test_two_models_in_one_process(case: Case, t5_case: Case) -> None:
    first, second = case.compiled, t5_case.loaded()
    (ids, mask), (other_ids, other_mask) = sources(PAD), sources(0)
    expected = first.generate(ids, mask), second.generate(other_ids, other_mask)
    for _ in range(2):  # in turn, each with sessions of the other one open
        open_sessions = first.session(ids, mask), second.session(other_ids, other_mask)
        assert np.array_equal(first.generate(ids, mask), expected[0])
        assert np.array_equal(second.generate(other_ids, other_mask), expected[1])
        assert [len(session.step(np.full((5, 1), 3))) for session in open_sessions] == [5, 5]
    found = in_threads(
        lambda: [first.generate(ids, mask) for _ in range(10)],
        lambda: [second.generate(other_ids, other_mask) for _ in range(10)],
    )
    for tokens, alone in zip(found, expected, strict=True):
        assert all(np.array_equal(row, alone) for row in tokens)


THREADS = """
import json, os, sys, threading, time
from tbt_compile.runtime.without_torch import hide_torch
hide_torch()
import tbt_compile
from tbt_compile.codegen.tvm_api import tvm

def tasks():
    return os.listdir("/proc/self/task")

before = os.sched_getaffinity(0)
model = tbt_compile.load(sys.argv[1])
used = []

number = tvm.get_global_func("runtime.NumThreads")

def generate(count):
    model.num_threads = count
    found = []
    model.generate([[3, 4, 5]], num_beams=1, on_tokens=lambda _: found.append(number()))
    used.append(found[0])

def elsewhere():
    thread = threading.Thread(target=generate, args=(1,))
    thread.start()
    thread.join()

elsewhere()
for count in (1, len(before)):
    generate(count)
same = all(os.sched_getaffinity(int(task)) == before for task in tasks())
alive = len(tasks())
for _ in range(20):
    elsewhere()
    model.generate_many([[3, 4, 5]], num_workers=1)
for _ in range(1000):  # the system may list a thread that has ended for a moment longer
    if len(tasks()) <= alive:
        break
    time.sleep(0.01)
print(json.dumps([used[:3], same, len(before), len(tasks()) - alive]))
"""


def test_threads_are_as_many_as_asked_stay_on_the_cpus_of_the_process_and_are_used_again(case: Case) -> None:
    program = [sys.executable, "-c", THREADS, str(case.folder)]
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(program, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    used, same, cpus, more = json.loads(done.stdout)
    assert used == [1, 1, cpus]
    assert same
    assert more == 0  # threads that came and went left none behind
