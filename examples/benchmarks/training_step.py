"""Time of a training step with distillation: the quantizers on, against the same step with them off.

    python examples/benchmarks/training_step.py
    python examples/benchmarks/training_step.py --size tiny --recipes 2-2-2 1-1-1 --profile --json out.json

A step is the teacher's forward pass, the student's forward and backward pass, clipping of gradients, and
AdamW; "off" is a student prepared with 32-32-32. All students take turns, on the same batches of random
tokens. Times are medians of the processor time of one thread, so that other programs on the machine
count less.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tbt_compile
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.training import MODEL_SIZES, LossWeights, distillation_terms, new_model
from tbt_compile.training.trainers import both_outputs

OFF = "32-32-32"


def make_step(
    teacher: Any, recipe: str, batch: dict[str, Tensor], weights: LossWeights
) -> Callable[[], None]:
    """A function that does one training step of a new student."""
    student = tbt_compile.prepare(copy.deepcopy(teacher), recipe).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)

    def step() -> None:
        outputs, target = both_outputs(student, teacher, batch, weights, output_hidden_states=True)
        terms = distillation_terms(outputs, target, batch["labels"], batch["attention_mask"], weights)
        terms.weighted(weights).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each step, after two rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def random_batch(vocabulary: int, rows: int, source: int, target: int) -> dict[str, Tensor]:
    """Token ids without padding."""
    generator = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(5, vocabulary, (rows, n), generator=generator) for n in (source, target))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def profile(step: Callable[[], None], rows: int = 25) -> str:
    """The operators that a step spends its time in, as a table."""
    with torch.profiler.profile() as found:
        step()
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=40)


def main() -> None:
    """Print and perhaps write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=MODEL_SIZES, nargs="+", default=["tiny", "small"])
    parser.add_argument("--recipes", nargs="+", default=["2-2-2", "2-2-8", "1-1-1"])
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--target-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="show where the steps spend their time")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    tokenizer = train_word_tokenizer(f"w{number}" for number in range(options.vocabulary))
    length = max(options.source_tokens, options.target_tokens)
    batch = random_batch(len(tokenizer), options.batch_size, options.source_tokens, options.target_tokens)
    rows: list[dict[str, Any]] = []
    print(f"{'size':6} {'recipe':9} {'ms':>8} {'against off':>12}")
    for size in options.size:
        torch.manual_seed(0)
        teacher = new_model(size, tokenizer, length).eval()
        steps = {
            recipe: make_step(teacher, recipe, batch, LossWeights()) for recipe in (OFF, *options.recipes)
        }
        seconds = measure(steps, options.repeats)
        for recipe, value in seconds.items():
            rows.append({"size": size, "recipe": recipe, "seconds": value, "ratio": value / seconds[OFF]})
            print(f"{size:6} {recipe:9} {value * 1e3:8.1f} {value / seconds[OFF]:11.2f}x", flush=True)
        if options.profile:
            for recipe, step in steps.items():
                print(f"\n{size} {recipe}\n{profile(step)}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
