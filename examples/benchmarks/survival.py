"""Interrupt `save`, `lower` and training at random moments, and see that the previous good state stays.

    python examples/benchmarks/survival.py
    python examples/benchmarks/survival.py --only train --times 50 --json survival.json

Two models are saved over each other in turn, frozen and compiled, one is lowered over itself, and a student
is distilled, by a process that is interrupted: by SIGKILL, by a disk that takes no more (RLIMIT_FSIZE; and
a small tmpfs, where one may be mounted), by a folder that becomes read-only (for a user who is not root).
Afterwards the folder must hold one of the two models, complete; what the system refuses must be a
`WriteError`; the next save must leave nothing else beside it; a student that was taken up again must have
the weights of one that was left alone. The exit status is 1 if that fails. `kill_and_resume.py` kills the
commands.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tbt_compile
from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextPair
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.demo.grammar import make_items
from tbt_compile.errors import FormatError, WriteError
from tbt_compile.storage import model_folder
from tbt_compile.storage.checksums import sha256
from tbt_compile.training import ModelSize, TrainingRun, TrainSettings, new_model
from tbt_compile.training.stages import distill

NOBODY = 65534
REFUSED = 3
"""Exit status of a process that was refused by a `WriteError`."""
ENDS = {0: "finished", REFUSED: "refused", -signal.SIGKILL: "killed", -signal.SIGTERM: "not reached"}
Work = Callable[[Path], None]
Results = Iterator[tuple[str, dict[str, Any]]]


def small_model(recipe: str) -> tbt_compile.FrozenModel:
    """A frozen Llama of one layer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = tbt_compile.prepare(LlamaForCausalLM(config), recipe)
    model(input_ids=torch.arange(16)[None])
    return tbt_compile.freeze(model)


def child(work: Callable[[], object]) -> int:
    """Run something in a forked process; returns its id."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    except WriteError:
        os._exit(REFUSED)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def status(process: int) -> int:
    """Wait for a process; returns its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(work: Work, place: Path, longest: float, moments: random.Random) -> int:
    """Start something and kill it at a random moment."""
    process = child(lambda: work(place))
    time.sleep(moments.uniform(0, longest))
    os.kill(process, signal.SIGKILL)
    return status(process)


def filled(work: Work, place: Path, longest: float, moments: random.Random) -> int:
    """Start something in a process whose files cannot grow beyond a random size."""
    limit = int(longest * moments.random())

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        work(place)

    return status(child(limited))


def crowded(work: Work, place: Path, longest: float, moments: random.Random) -> int:
    """Start something on a small disk that is partly full."""
    ballast = place.parent / "ballast"
    with suppress(OSError):  # as much as there is room for
        ballast.write_bytes(bytes(int(longest * moments.random())))
    code = status(child(lambda: work(place)))
    ballast.unlink()
    return code


def closed(work: Work, place: Path, longest: float, moments: random.Random) -> int:
    """Start something as another user, and make the place read-only at a random moment."""

    def unprivileged() -> None:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work(place)

    for folder in (place.parent, place):
        folder.chmod(0o777)
    process = child(unprivileged)
    time.sleep(moments.uniform(0, longest))
    place.parent.chmod(0o555)
    for _ in range(100):  # while the folder is exchanged, another one has its name
        try:
            place.chmod(0o555)
        except FileNotFoundError:
            continue
        break
    time.sleep(0.05)
    ended = os.waitpid(process, os.WNOHANG)
    if not ended[0]:
        os.kill(process, signal.SIGTERM)
        ended = os.waitpid(process, 0)
    for folder in (place.parent, place):
        folder.chmod(0o755)
    return os.waitstatus_to_exitcode(ended[1])


def identity(place: Path) -> str:
    """What a folder holds, whose files are all as its manifest says; two links of a library may differ."""
    manifest = model_folder.read_manifest(place)
    return json.dumps(
        {name: manifest[name] for name in manifest.keys() - {"files", "checksum"}}, sort_keys=True
    )


def wrong(place: Path, good: set[str]) -> str | None:
    """What is wrong with a folder: it does not load, or is none of the known models."""
    try:
        found = identity(place)
    except FormatError as error:
        return str(error)
    if status(child(lambda: tbt_compile.load(place))):  # apart: a library that was loaded keeps its space
        return "it does not load"
    if found not in good:
        return "another model"
    left = {path.name for path in place.parent.iterdir()} - {place.name}
    strange = [name for name in left if not name.startswith(".tbt-draft-")]
    return f"{strange} beside it" if strange else None


def series(
    interrupt: Callable[[Work, Path, float, random.Random], int],
    work: Work,
    models: list[Any],
    place: Path,
    longest: float,
    times: int,
) -> dict[str, Any]:
    """Interrupt something again and again.

    Args:
        interrupt: once.
        work: saves to a place.
        models: what may be in the place afterwards.
        place: the folder.
        longest: seconds, or bytes, within which it is interrupted.
        times: how often.

    Returns:
        How often, how the processes ended, how often another model than before was there, and the faults.
    """
    good, faults, changes, moments = set(), [], 0, random.Random(0)
    ends: Counter[str] = Counter()
    for model in models:
        model.save(place)
        good.add(identity(place))
    before = identity(place)
    for number in range(times):
        code = interrupt(work, place, longest, moments)
        ends[ENDS.get(code, f"exit status {code}")] += 1
        fault = wrong(place, good) if code in ENDS else f"exit status {code}"
        if fault is not None:
            faults.append(f"{number}: {fault}")
            models[0].save(place)
        after = identity(place)
        changes, before = changes + (after != before), after
    models[0].save(place)
    left = sorted(path.name for path in place.parent.iterdir())
    if left != [place.name]:
        faults.append(f"left at the end: {left}")
    return {"times": times, **ends, "another model": changes, "faults": faults}


def saving(models: list[Any], rounds: int) -> Work:
    """Save models to a place in turn."""

    def work(place: Path) -> None:
        for _ in range(rounds):
            for model in models:
                model.save(place)

    return work


def tmpfs(stack: ExitStack, parent: Path, size: int) -> Path | None:
    """A file system of so many bytes, for the context; None where none may be mounted."""
    place = parent / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        return None
    stack.callback(subprocess.run, ["umount", "--lazy", str(place)], check=False)
    return place


def saves(stack: ExitStack, work: Path, frozen: list[Any], times: int) -> Results:
    """Interrupt saves of frozen models, and of the same compiled; yields names and results of the series."""
    compiled = [
        tbt_compile.load(tbt_compile.lower(each).save(work / f"compiled {number}"))
        for number, each in enumerate(frozen)
    ]
    for kind, models in (("frozen", frozen), ("compiled", compiled)):
        for interrupt, longest in ((killed, 0.2), (filled, 6e5), (closed, 0.2)):
            home = work / f"{kind} {interrupt.__name__}"
            home.mkdir()
            task = saving(models, 1 if interrupt is filled else 10**6)
            result = series(interrupt, task, models, home / "model", longest, times)
            yield f"save {kind}, {interrupt.__name__}", result
    size, name = model_folder.folder_bytes(work / "compiled 0"), "save compiled, a full tmpfs"
    small = tmpfs(stack, work, 3 * size)
    if small is None:
        yield name, {"times": 0, "faults": [], "not run": "no file system may be mounted here"}
    else:
        yield name, series(crowded, saving(compiled, 1), compiled, small / "model", 2 * size, times)


def lowers(work: Path, frozen: list[Any], times: int) -> Results:
    """Interrupt `lower` and the save after it; yields names and results of the series."""
    place = work / "lowered" / "model"

    def lower(place: Path) -> None:
        tbt_compile.lower(frozen[0]).save(place)

    lower(place)
    start = time.perf_counter()
    lower(place)  # with the cache, as in every later process
    seconds = time.perf_counter() - start
    again = [tbt_compile.load(place)]
    for interrupt, longest in ((killed, seconds), (filled, 6e5)):
        yield f"lower, {interrupt.__name__}", series(interrupt, lower, again, place, longest, times)


def trains(work: Path, times: int) -> Results:
    """Interrupt distillations, take them up again, and compare with one that was left alone; as `lowers`."""
    pairs = [TextPair(item.source, item.target) for item in make_items(60, seed=5)]
    tokenizer = train_word_tokenizer(text for pair in pairs for text in (pair.source, pair.target))
    teacher = new_model(ModelSize(width=32, layers=1, heads=2, inner=64), tokenizer, max_length=40)
    corpus = Corpus(pairs, tokenizer, TextLengths(source=40, target=12))
    settings = TrainSettings(steps=40, batch_size=8, save_every=4, seed=3)

    def train(folder: Path) -> None:
        distill(copy.deepcopy(teacher), "2-2-2", corpus, TrainingRun(folder, settings))

    def finished(folder: Path) -> str:
        if status(child(lambda: train(folder))):
            return "it does not finish"
        return sha256(folder / "model.safetensors")

    start = time.perf_counter()
    expected = finished(work / "train" / "whole")
    seconds = time.perf_counter() - start
    for interrupt, longest in ((killed, seconds / 2), (filled, 2e5)):
        ends: Counter[str] = Counter()
        faults, runs, moments = [], 0, random.Random(0)
        for number in range(times):
            place = work / f"train {interrupt.__name__}" / str(runs)
            code = interrupt(train, place, longest, moments)
            ends[ENDS.get(code, f"exit status {code}")] += 1
            if code not in ENDS:
                faults.append(f"{number}: exit status {code}")
            if (code == 0 or number == times - 1) and finished(place) != expected:
                faults.append(f"{number}: other weights")
            runs += code == 0
        yield f"train, {interrupt.__name__}", {"times": times, **ends, "runs": runs + 1, "faults": faults}


def main() -> None:
    """Run every series and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50, help="interruptions of each kind")
    parser.add_argument("--only", choices=("save", "lower", "train"), help="interrupt only this")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="survival-")))
        work.chmod(0o755)
        os.environ["TBT_CACHE"] = str(work / "cache")
        frozen = [small_model(recipe) for recipe in ("2-2-2", "1-1-1")]
        found = {
            "save": saves(stack, work, frozen, arguments.times),
            "lower": lowers(work, frozen, arguments.times),
            "train": trains(work, arguments.times),
        }
        for name, result in chain(*([found[arguments.only]] if arguments.only else found.values())):
            results[name] = result
            print(f"{name}: {result}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(1 if any(each["faults"] for each in results.values()) else 0)


if __name__ == "__main__":
    main()
