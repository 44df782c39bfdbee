"""Time of a distillation step with quantizers on, against the same step with quantizers off.

    python examples/benchmarks/training_step.py
    python examples/benchmarks/training_step.py --size tiny --recipes 2-2-2 1-1-1 --profile --json out.json

A step is the teacher's forward pass, the student's forward and backward passes, gradient clipping, and AdamW;
"off" is a student prepared with 32-32-32. All students take turns on the same batch of random tokens. Times
are medians of CPU time, which other programs affect less than wall time.
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
from tbt_compile.training.tasks import task_of
from tbt_compile.training.trainers import both_outputs

OFF = "32-32-32"


def make_step(
    teacher: Any, recipe: str, batch: dict[str, Tensor], weights: LossWeights
) -> Callable[[], None]:
    """Make a student.

    Args:
        teacher: a full-precision model in evaluation mode.
        recipe: of the student.
        batch: to train on.
        weights: of the distillation loss terms.

    Returns:
        A function that runs one training step.
    """
    student = tbt_compile.prepare(copy.deepcopy(teacher), recipe).train()
    optimizer, task = torch.optim.AdamW(student.parameters(), lr=1e-3), task_of(teacher)

    def step() -> None:
        outputs, target = both_outputs(task, student, teacher, batch, weights, output_hidden_states=True)
        terms = distillation_terms(outputs, target, batch, weights, task)
        terms.weighted(weights).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each step, after two warm-up rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def random_batch(vocabulary: int, rows: int, source: int, target: int) -> dict[str, Tensor]:
    """A batch of random token ids without padding.

    Args:
        vocabulary: tokens to choose from.
        rows: batch size.
        source, target: tokens of each text.
    """
    generator = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(5, vocabulary, (rows, n), generator=generator) for n in (source, target))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def profile(step: Callable[[], None], rows: int = 25) -> str:
    """Profile a step; returns a table of the operators that take most time."""
    with torch.profiler.profile() as found:
        step()
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=40)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=MODEL_SIZES, nargs="+", default=["tiny", "small"], help="of the models"
    )
    parser.add_argument("--recipes", nargs="+", default=["2-2-2", "2-2-8", "1-1-1"], help="of the students")
    parser.add_argument("--vocabulary", type=int, default=8000, help="words of the tokenizer")
    parser.add_argument("--batch-size", type=int, default=64, help="examples per step")
    parser.add_argument("--source-tokens", type=int, default=32, help="tokens of a source")
    parser.add_argument("--target-tokens", type=int, default=16, help="tokens of a target")
    parser.add_argument("--repeats", type=int, default=9, help="rounds; figures are medians")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--profile", action="store_true", help="print a profile of every step")
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
