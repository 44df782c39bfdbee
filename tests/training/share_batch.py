"""Train a small teacher and a student of it in a folder: imported, or in several processes at once."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.small import SETTINGS, SIZE, corpus, tokenizer

from tbt_compile import Recipe
from tbt_compile.training import TrainingRun, distill, new_model, processes, train_teacher
from tbt_compile.training.methods import get_method

# Without dropout: processes draw their own random numbers.
PLAIN = replace(SIZE, dropout=0.0)
STEPS = replace(SETTINGS, steps=6, save_every=2)


def train(folder: Path) -> None:
    """A teacher, and students of an untrained one: plain, with further terms and with learned offsets."""
    teacher = new_model(PLAIN, tokenizer(), max_length=40)
    trained = copy.deepcopy(teacher)
    train_teacher(trained, corpus(), TrainingRun(folder / "teacher", STEPS))
    method = get_method("ternarybert")
    one_step = replace(STEPS, steps=1, save_every=1)
    for kind, steps in (("first", one_step), ("sixth", STEPS)):
        distill(teacher, "2-2-2", corpus(), TrainingRun(folder / f"{kind}-plain", steps))
        method.train_student(teacher, "2-2-8", corpus(), TrainingRun(folder / f"{kind}-further", steps))
    offsets = Recipe.parse("2-2-2", activation_offset=True)
    distill(teacher, offsets, corpus(), TrainingRun(folder / "first-offsets", one_step))


if __name__ == "__main__":
    processes.start()
    assert processes.count() == int(sys.argv[2])
    train(Path(sys.argv[1]))
