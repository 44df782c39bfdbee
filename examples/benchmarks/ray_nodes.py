"""A job on a cluster of two Ray nodes on this machine, one of which is killed in the middle.

    python examples/benchmarks/ray_nodes.py --texts 5000 --json ray.json

Every text must have one output, that of one process. Texts per second of one worker and of two are printed.
The exit status is 1 if an output is missing or differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import make_folder

from tbt_compile.bench.conditions import conditions
from tbt_compile.jobs.parts import Job, run
from tbt_compile.jobs.ray_cluster import on_ray
from tbt_compile.jobs.writer import on_this_machine

OPTIONS: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 64, "batch_size": 32}
PART = 100


def written(folder: Path, job: Job, workers: int, at_part: Callable[[int], None] = lambda _: None) -> float:
    """Run a job on the cluster, in this process if there are no workers; returns its seconds.

    Args:
        folder: compiled.
        job: the texts.
        workers: of the cluster.
        at_part: called with the number of parts that are done.
    """
    start = time.perf_counter()
    job.open()
    options = {**OPTIONS, "num_threads": 1}
    parts = job.missing()
    outputs = on_ray(folder, options, parts, workers) if workers else on_this_machine(folder, options, parts)
    for number, _ in enumerate(run(job, outputs)):
        at_part(number)
    return time.perf_counter() - start


def main() -> None:
    """Run the job in one process, with one worker, with two, and with two of which one is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=5000, help="number of texts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    generator = random.Random(0)
    texts = [
        " ".join(f"w{generator.randrange(4000)}" for _ in range(generator.randint(1, 40)))
        for _ in range(arguments.texts)
    ]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory() as work:
        folder = make_folder(Path(work), 2, 128)
        seconds = {
            name: written(folder, Job(texts, Path(work) / f"{name}.txt", {}, PART), workers)
            for name, workers in (("one process", 0), ("one worker", 1), ("two workers", 2))
        }

        def kill(part: int) -> None:
            if part == len(texts) // PART // 2:
                cluster.remove_node(nodes[1], allow_graceful=False)

        seconds["two, one lost"] = written(folder, Job(texts, Path(work) / "lost.txt", {}, PART), 2, kill)
        expected = (Path(work) / "one process.txt").read_text()
        names = ("one worker", "two workers", "lost")
        equal = {name: (Path(work) / f"{name}.txt").read_text() == expected for name in names}
    # At its exit Ray would look for what the lost node had, and end the process with a status of its own.
    ray.shutdown()
    cluster.shutdown()
    print("| | seconds | texts/s |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {value:.1f} | {len(texts) / value:.0f} |")
    print("equal to one process:", equal)
    if arguments.json:
        content = {"conditions": conditions(), "texts": len(texts), "seconds": seconds, "equal": equal}
        arguments.json.write_text(json.dumps(content, indent=1))
    sys.exit(not all(equal.values()))


if __name__ == "__main__":
    main()
