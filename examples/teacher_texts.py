"""Replace the training targets by a teacher's output, for sequence-level distillation.

    python examples/teacher_texts.py my-data --teacher my-bart --out my-data-by-teacher
    tbt train --data my-data-by-teacher --teacher my-bart --recipe 1-1-1 --output trained

Kim and Rush 2016 (arXiv:1606.07947): the teacher's texts are simpler than the references, which helps
students of low capacity. Validation and test pairs stay as they are. If the teacher's output is empty, the
reference is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from tbt_compile.cli.console import out, progress_bar
from tbt_compile.data.text_pairs import TextPair, load_folder, write_pairs
from tbt_compile.evaluation.generation import DecodeSettings, generate_texts
from tbt_compile.training.stages import load_teacher


def main(given: Sequence[str] | None = None) -> None:
    """Generate a target for every training source and write a folder with the same splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.jsonl")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of a fine-tuned model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new train.jsonl")
    parser.add_argument("--num-beams", type=int, default=4, help="beams of the search; 1 is greedy")
    parser.add_argument("--max-length", type=int, default=64, help="maximum tokens of a text")
    arguments = parser.parse_args(given)
    if arguments.out.resolve() == arguments.data.resolve():
        parser.error(f"--out {arguments.out} is the input folder: give another one")
    data = load_folder(arguments.data)
    with progress_bar("starting") as progress:
        written = generate_texts(
            load_teacher(arguments.teacher),
            AutoTokenizer.from_pretrained(str(arguments.teacher), local_files_only=True),
            [pair.source for pair in data.train],
            DecodeSettings(arguments.max_length, arguments.max_length, arguments.num_beams),
            progress=progress,
            title="generating targets",
        )
    pairs = [
        TextPair(pair.source, text or pair.target)
        for pair, text in zip(data.train, written.texts, strict=True)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split, of_split in (("validation", data.validation), ("test", data.test), ("train", pairs)):
        if of_split:
            write_pairs(arguments.out / f"{split}.jsonl", of_split)
    empty = sum(not text for text in written.texts)
    out.print(f"{len(pairs)} targets, {empty} of them references, in {arguments.out}")


if __name__ == "__main__":
    main()
