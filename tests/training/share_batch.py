"""Train a small teacher and a student of it in a folder: imported, or in several processes at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.small import LENGTHS, PAIRS, SETTINGS, SIZE, tokenizer

from tbt_compile.training import distill, new_model, processes, train_teacher

# Without dropout: processes draw their own random numbers.
PLAIN = replace(SIZE, dropout=0.0)
STEPS = replace(SETTINGS, steps=6, save_every=2)


def train(folder: Path) -> None:
    """A teacher of six steps, and a student of as many."""
    words = tokenizer()
    teacher = new_model(PLAIN, words, max_length=40)
    teacher = train_teacher(teacher, PAIRS, words, folder / "teacher", settings=STEPS, **LENGTHS)
    distill(teacher, "2-2-2", PAIRS, words, folder / "student", settings=STEPS, **LENGTHS)


if __name__ == "__main__":
    processes.start()
    assert processes.count() == int(sys.argv[2])
    train(Path(sys.argv[1]))
