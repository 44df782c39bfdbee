"""Pre-train a small model on your texts with BART's denoising objective: restore deleted words.

    python examples/pretrain.py my-data more-texts --lower-case --out pretrained
    tbt reproduce table3 --data my-data --config pretrained --teacher-steps 800 --out results

Every folder has a train.jsonl; the sources and targets of all its lines are used, but no test data. A model
trained from scratch on a few thousand pairs memorizes them before it learns to copy a name from its source.
Pre-training on restoring texts teaches it to copy first. There are `--copies` of each text, with different
words deleted. An interrupted run resumes when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tbt_compile.cli.console import progress_bar
from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.denoising import noisy_pairs
from tbt_compile.data.text_pairs import load_folder
from tbt_compile.data.tokenization import train_bpe_tokenizer
from tbt_compile.training import MODEL_SIZES, TrainingRun, TrainSettings, new_model, train_teacher
from tbt_compile.training.settings import teacher_rate


def main(given: Sequence[str] | None = None) -> None:
    """Train the tokenizer and the model, and save both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders with train.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--size", choices=list(MODEL_SIZES), default="tiny", help="of the model")
    parser.add_argument("--vocab-size", type=int, default=4000, help="tokens of the tokenizer")
    parser.add_argument("--lower-case", action="store_true", help="convert texts to lower case")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--copies", type=int, default=4, help="training pairs per text")
    parser.add_argument("--share", type=float, default=0.2, help="share of the words to delete")
    parser.add_argument("--max-length", type=int, default=64, help="maximum tokens of a text")
    arguments = parser.parse_args(given)
    texts = [text for folder in arguments.data for text in load_folder(folder).texts()]
    tokenizer = train_bpe_tokenizer(texts, arguments.vocab_size, arguments.lower_case)
    if arguments.lower_case:
        texts = [text.lower() for text in texts]
    with progress_bar("starting") as progress:
        pairs = tuple(noisy_pairs(texts, arguments.copies, arguments.share))
        settings = TrainSettings(steps=arguments.steps, learning_rate=teacher_rate(arguments.size))
        train_teacher(
            new_model(arguments.size, tokenizer, arguments.max_length),
            Corpus(pairs, tokenizer, TextLengths(arguments.max_length, arguments.max_length)),
            TrainingRun(arguments.out, settings, progress=progress, title="pre-training"),
        )


if __name__ == "__main__":
    main()
