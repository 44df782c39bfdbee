"""An encoder-decoder of a middle size: pre-trained, fine-tuned, and a teacher for the paper's tables.

    python examples/pretrained/encoder_decoder.py --output mid --minutes 9
    tbt reproduce table3 --config mid/debian-synopses --teacher-steps 0 --data debian-synopses --out table3

A BART of 38 million parameters (preset `gpu`) or 23 million (`cpu`) learns to restore deleted words of all
texts, then to write synopses and to translate into Italian. Phases: `tokenizer`, `pretrained`, and one of
each data set. Without `--data` these are the Debian texts where they lie beside the checkout, else the
project's own text.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from study import (
    DEBIAN,
    Phase,
    Preset,
    Study,
    arguments,
    half_precision,
    program,
    read_texts,
    run,
    run_phases,
)

from tbt_compile.data.batches import Corpus
from tbt_compile.data.denoising import noisy_pairs
from tbt_compile.data.text_pairs import TextData, TextPair, digest
from tbt_compile.data.tokenization import load_tokenizer, train_bpe_tokenizer
from tbt_compile.errors import DataError
from tbt_compile.evaluation import evaluate_model
from tbt_compile.evaluation.generation import DecodeSettings
from tbt_compile.training import ModelSize, TrainingError, new_model, processes, train_teacher
from tbt_compile.training.record import read_record
from tbt_compile.training.stages import load_teacher

PRESETS = {
    "gpu": Preset(
        source=192, target=96, train=60_000, test=1000, batch_size=128, teacher_steps=20_000, steps=6000,
        teacher_rate=5e-4, rate=3e-4, layers=4,
    ),
    "cpu": Preset(
        source=64, target=24, train=60_000, test=1000, batch_size=32, teacher_steps=5000, steps=2500,
        teacher_rate=1e-3, rate=4e-4, layers=1,
    ),
}  # fmt: skip
"""`teacher_steps` and `teacher_rate` are those of pre-training, `steps` and `rate` those of fine-tuning."""
SHAPES = {
    4: (ModelSize(width=512, layers=4, heads=8, inner=2048, dropout=0.1), 16_000),
    1: (ModelSize(width=768, layers=1, heads=12, inner=3072, dropout=0.1), 8000),
}
"""The shape of the model and the tokens of its tokenizer, by the layers on each side."""
DATA_SETS = ("debian-synopses", "debian-en-it")
COPIES, DELETED = 4, 0.3
PRETRAINED = "pretrained"
TAKEN = ("tokenizer", PRETRAINED, "rows", "table3")
"""Names in the output folder that no data set may have."""


def shape_of(preset: Preset) -> tuple[ModelSize, int]:
    """The shape of the model, and the tokens of its tokenizer.

    Raises:
        TrainingError: there is no shape of so many layers.
    """
    if preset.layers not in SHAPES:
        raise TrainingError(f"layers={preset.layers}: expected one of {', '.join(map(str, SHAPES))}")
    return SHAPES[preset.layers]


def read_data(options: argparse.Namespace, preset: Preset) -> dict[str, TextData]:
    """The data sets by name.

    Raises:
        DataError: a folder cannot be read, or has a name that is taken in the output folder.
    """
    if options.data is not None:
        if options.data.resolve().name in TAKEN:
            raise DataError(
                f"{options.data}: the output folder has a {options.data.resolve().name} of its own; give the "
                "data another name"
            )
        return {options.data.resolve().name: read_texts(options.data, "", preset.train, preset.test)}
    names = DATA_SETS if all((DEBIAN / name).is_dir() for name in DATA_SETS) else ("demo",)
    return {name: read_texts(None, name, preset.train, preset.test) for name in names}


def work(options: argparse.Namespace, opened: Study) -> bool:
    """All phases of the study."""
    preset, data = opened.preset, read_data(options, opened.preset)
    size, vocabulary = shape_of(preset)
    hashes = {name: [digest(found.train), digest(found.test)] for name, found in data.items()}
    study = opened.started(data=hashes, vocabulary=vocabulary)
    texts = [text for found in data.values() for text in found.texts()]

    def make_tokenizer() -> dict[str, Any]:
        made = train_bpe_tokenizer(texts, vocabulary)
        made.save_pretrained(study.output / "tokenizer")
        return {"tokens": len(made)}

    @cache
    def tokenizer() -> Any:
        return load_tokenizer(study.output / "tokenizer")

    def train(name: str, model: Any, pairs: Sequence[TextPair], steps: int, rate: float) -> dict[str, Any]:
        corpus = Corpus(pairs, tokenizer(), preset.lengths)
        with half_precision():
            train_teacher(model, corpus, study.training(name, steps, rate), callbacks=[study.limit])
        return {"outcome": read_record(study.output / name)["outcome"]}

    def pretrain() -> dict[str, Any]:
        model = new_model(size, tokenizer(), preset.lengths.longest, study.seed)
        copies = min(COPIES, math.ceil(preset.teacher_steps * preset.batch_size / len(set(texts))))
        pairs = tuple(noisy_pairs(texts, copies, DELETED, study.seed))
        found = train(PRETRAINED, model, pairs, preset.teacher_steps, preset.teacher_rate)
        return {"parameters": model.num_parameters(), **found}

    def fine_tune(name: str) -> dict[str, Any]:
        found = train(
            name, load_teacher(study.output / PRETRAINED), data[name].train, preset.steps, preset.rate
        )
        model = load_teacher(study.output / name).to(processes.device())
        decode = DecodeSettings(preset.source, preset.target)
        scores, _ = evaluate_model(model, tokenizer(), data[name].test, decode, progress=study.progress)
        study.say(
            f"tbt reproduce table3 --config {study.output / name} --teacher-steps 0 --data "
            f"{options.data or DEBIAN / name} --out {study.output / 'table3'}"
        )
        return {**found, "scores": scores.to_dict()}

    phases = [
        Phase("tokenizer", make_tokenizer),
        Phase(PRETRAINED, pretrain),
        *(Phase(name, lambda name=name: fine_tune(name)) for name in data),
    ]
    return run_phases(study, phases)


def main(given: Sequence[str] | None = None) -> bool:
    """Do as much as there is time for; whether all is done."""
    return run(work, arguments(__doc__, PRESETS, without=("seconds",)), PRESETS, given)


if __name__ == "__main__":
    program(main)
