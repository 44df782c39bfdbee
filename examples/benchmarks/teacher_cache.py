"""What cached distributions of a teacher cost and save: loss, disk and time of a step, by the tokens kept.

    python examples/benchmarks/teacher_cache.py my-llama my-data --template "{source} :" --json cache.json

The teacher is a decoder-only model with its tokenizer, the data a folder with train.jsonl. The student is a
2-2-2 copy. Losses are those of the first batches, before any training; a step is the forward and backward of
the student, with the teacher's forward or without. The ways take turns; times are medians of CPU seconds.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

import tbt_compile
from tbt_compile.data.text_pairs import load_folder
from tbt_compile.training import (
    DistillationTrainer,
    LossWeights,
    PromptCorpus,
    TeacherCache,
    TextLengths,
)
from tbt_compile.training.stages import load_teacher
from tbt_compile.training.teacher_cache import Numbered, NumberedCollator

WEIGHTS = LossWeights(hidden=0.0)


def make_trainer(options: argparse.Namespace, k: int | None, corpus: PromptCorpus, scratch: str) -> Any:
    """A trainer of a fresh student.

    Args:
        options: of the command line.
        k: tokens of the cache; None: the teacher runs in every step.
        corpus: the training examples.
        scratch: folder for the cache.
    """
    teacher = load_teacher(options.teacher)
    student = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2").train()
    arguments = Seq2SeqTrainingArguments(f"{scratch}/{k}", report_to="none", use_cpu=True)
    return DistillationTrainer(
        student,
        teacher,
        arguments,
        train_dataset=corpus.dataset(),
        data_collator=corpus.collator(),
        weights=WEIGHTS,
        cache=None if k is None else TeacherCache(f"{scratch}/logits-{k}", k),
    )


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", type=Path, help="folder of a decoder-only model")
    parser.add_argument("data", type=Path, help="folder with train.jsonl")
    parser.add_argument("--template", help="of the prompts")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256], help="kept of a distribution")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(str(options.teacher), local_files_only=True)
    pairs = load_folder(options.data).train[: options.batch_size * options.batches]
    corpus = PromptCorpus(pairs, tokenizer, TextLengths(48, 16), options.template)
    rows = Numbered(corpus.dataset())
    collate = NumberedCollator(corpus.collator())
    batches = [
        collate([rows[first + number] for number in range(options.batch_size)])
        for first in range(0, len(pairs), options.batch_size)
    ]
    ways = [None, *options.tokens, len(tokenizer)]
    losses: dict[int | None, list[float]] = {k: [] for k in ways}
    seconds: dict[int | None, list[float]] = {k: [] for k in ways}
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {k: make_trainer(options, k, corpus, scratch) for k in ways}
        for turn in range(2):  # the first fills the caches
            for batch in batches:
                for k, trainer in trainers.items():
                    start = time.process_time()
                    loss = trainer.compute_loss(trainer.model, dict(batch))
                    loss.backward()
                    trainer.model.zero_grad()
                    if turn:
                        seconds[k].append(time.process_time() - start)
                        losses[k].append(loss.item())
        kept = {k: trainer.figures().get("cache", {}) for k, trainer in trainers.items()}
    whole, table = statistics.mean(losses[None]), []
    print(f"{'kept':>6} {'loss':>10} {'less by':>9} {'rest':>7} {'bytes a token':>14} {'ms a step':>10}")
    for k in ways:
        loss, step = statistics.mean(losses[k]), statistics.median(seconds[k])
        row = {"k": k, "loss": loss, "less": whole - loss, "seconds": step, **kept[k]}
        table.append(row)
        rest, size = row.get("rest", 0.0), row.get("bytes_per_prediction", 0)
        name = k or "all"
        print(f"{name:>6} {loss:10.6f} {whole - loss:9.2e} {rest:7.2%} {size:14} {1000 * step:10.1f}")
    if options.json:
        asked = {name: str(value) for name, value in vars(options).items()}
        options.json.write_text(json.dumps({"options": asked, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
