"""The zoo: every text-generation architecture of transformers, and whether its compiled tokens are equal.

    python examples/zoo.py --json zoo.json --markdown docs/compatibility.md
    python examples/zoo.py --kinds seq2seq --only t5,bart --jobs 1
    python examples/zoo.py --check docs/compatibility.json --sample 20 --stage capture

A small model of each architecture, with random weights, is prepared, frozen and compiled. Its tokens are
those of the frozen model in PyTorch or the row says otherwise: greedily and with 3 beams, in a batch with
padding, past the length of every window. Each case has a process of its own, with limits on time and memory.
With the same --json file, an interrupted run resumes; --again repeats the outcomes named. --check compares
the outcomes with those of an earlier run, and fails if one is another; --stage capture stops before the
compiler, which makes it quick.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "architectures"))
Case = tuple[str, str]
Results = dict[str, dict[str, Any]]
KINDS = ("causal", "seq2seq", "speech", "vision")


def work(case: Case, recipe: str, stage: str, gigabytes: float, log: str, channel: Connection) -> None:
    """Run one case in this process, and send its outcome."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    most = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    import torch
    from zoo_case import outcome

    torch.set_num_threads(1)
    channel.send(outcome(*case, recipe, stage))


def run_all(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Run cases, several at a time, each within its limits; yields outcomes as they come."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "tbt_compile"])
    waiting, running = list(reversed(cases)), {}
    Path(options.logs).mkdir(parents=True, exist_ok=True)
    while waiting or running:
        while waiting and len(running) < options.jobs:
            case = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            log = str(Path(options.logs) / f"{case[0]}-{case[1]}.log")
            arguments = (case, options.recipe, options.stage, options.gigabytes, log, sender)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            sender.close()
            running[case] = (process, receiver, time.monotonic())
        multiprocessing.connection.wait([receiver for _, receiver, _ in running.values()], timeout=1)
        for case, (process, receiver, start) in list(running.items()):
            seconds = time.monotonic() - start
            if receiver.poll():
                yield case, {**_received(receiver, process), "seconds": round(seconds, 1)}
            elif seconds > options.seconds:
                yield (
                    case,
                    {"outcome": "crash", "reason": f"no outcome in {options.seconds} s", "seconds": seconds},
                )
            else:
                continue
            process.kill()
            process.join()
            del running[case]


def _received(receiver: Connection, process: Any) -> dict[str, Any]:
    try:
        return dict(receiver.recv())
    except EOFError:
        process.join()
        return {"outcome": "crash", "reason": f"the process ended with exit code {process.exitcode}"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", default="zoo.json", help="read and write outcomes here")
    parser.add_argument("--markdown", help="write the table here")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated")
    parser.add_argument("--only", help="model types, comma-separated")
    parser.add_argument("--again", default="", help="outcomes to repeat, comma-separated")
    parser.add_argument("--sample", type=int, help="this many architectures, drawn at random")
    parser.add_argument("--recipe", default="2-2-8", help="E-W-A notation")
    parser.add_argument("--stage", default="lower", help="the last one: model, capture or lower")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--seconds", type=float, default=600, help="limit of a case")
    parser.add_argument("--gigabytes", type=float, default=16, help="limit of a case, of address space")
    parser.add_argument("--logs", default="zoo-logs", help="folder for what the cases print")
    parser.add_argument("--check", help="compare with the outcomes in this file")
    options = parser.parse_args(arguments)

    import transformers
    from zoo_models import architectures
    from zoo_table import markdown

    path = Path(options.json)
    results: Results = json.loads(path.read_text()) if path.exists() and not options.check else {}
    cases = [(kind, name) for kind in options.kinds.split(",") for name in architectures(kind)]
    if options.only:
        cases = [case for case in cases if case[1] in options.only.split(",")]
    recorded: Results = json.loads(Path(options.check).read_text()) if options.check else {}
    if recorded:
        cases = [case for case in cases if "/".join(case) in recorded]
    if options.sample:
        cases = random.Random(0).sample(cases, options.sample)
    again = {None, *options.again.split(",")}  # None: not run yet
    known = {case: results.get("/".join(case), {}).get("outcome") for case in cases}
    open_cases = [case for case in cases if known[case] in again or "all" in again]
    for number, (case, result) in enumerate(run_all(open_cases, options), 1):
        results["/".join(case)] = result
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(results, indent=1, sort_keys=True))
        scratch.replace(path)
        print(
            f"{number}/{len(open_cases)} {'/'.join(case)}: {result['outcome']} ({result['seconds']:.0f} s) "
            f"{result.get('reason', '')[:300]}",
            file=sys.stderr,
            flush=True,
        )
    if options.markdown:
        listed = [(kind, name) for kind in KINDS for name in architectures(kind)]
        not_run = {"outcome": "untried", "reason": "not run yet"}
        shown = {**{"/".join(case): not_run for case in listed}, **results}
        command = "python examples/zoo.py --json docs/compatibility.json --markdown docs/compatibility.md"
        Path(options.markdown).write_text(
            markdown(shown, transformers.__version__, options.recipe, command), encoding="utf-8"
        )
    if options.check:
        changed = differing(results, recorded)
        sys.exit("\n".join(changed) or 0)


def differing(results: Results, recorded: Results) -> list[str]:
    """The outcomes that are not those of an earlier run; what comes after a capture is not known of one."""
    return [
        f"{name}: {found['outcome']} ({found.get('reason', '')}), but {recorded[name]['outcome']} before"
        for name, found in results.items()
        if name in recorded
        and found["outcome"] != recorded[name]["outcome"]
        and not (found["outcome"] == "captured" and "prepare_s" in recorded[name])
    ]


if __name__ == "__main__":
    main()
